"""Background jobs on Apache Kafka whose order survives failure.

    from processor import App, JobContext, Reject, Retry

Names are loaded when first used, so that `processor --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from processor.errors import ProcessorError, Reject, Retry
    from processor.model import ObjectRef
    from processor.settings import Settings

_HOMES = {
    "ObjectRef": "processor.model",
    "ProcessorError": "processor.errors",
    "Reject": "processor.errors",
    "Retry": "processor.errors",
    "Settings": "processor.settings",
}

__all__ = ["ObjectRef", "ProcessorError", "Reject", "Retry", "Settings"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
