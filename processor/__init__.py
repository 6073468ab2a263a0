"""Background jobs on Apache Kafka whose order survives failure.

    from processor import App, JobContext, Reject, Retry

Names are loaded when first used, so that `processor --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from processor.app import App
    from processor.async_client import AsyncClient
    from processor.client import Client
    from processor.engine.context import JobContext
    from processor.engine.submit import Accepted, NewJob, Refused
    from processor.errors import PermanentError, ProcessorError, Reject, Retry, TransientError
    from processor.model import ObjectRef
    from processor.settings import Settings, load_settings
    from processor.submission import Submission

_HOMES = {
    "Accepted": "processor.engine.submit",
    "App": "processor.app",
    "AsyncClient": "processor.async_client",
    "Client": "processor.client",
    "JobContext": "processor.engine.context",
    "NewJob": "processor.engine.submit",
    "ObjectRef": "processor.model",
    "PermanentError": "processor.errors",
    "ProcessorError": "processor.errors",
    "Refused": "processor.engine.submit",
    "Reject": "processor.errors",
    "Retry": "processor.errors",
    "Settings": "processor.settings",
    "Submission": "processor.submission",
    "TransientError": "processor.errors",
    "load_settings": "processor.settings",
}

__all__ = [
    "Accepted",
    "App",
    "AsyncClient",
    "Client",
    "JobContext",
    "NewJob",
    "ObjectRef",
    "PermanentError",
    "ProcessorError",
    "Refused",
    "Reject",
    "Retry",
    "Settings",
    "Submission",
    "TransientError",
    "load_settings",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
