"""Jobs that are useful as they are: `object.copy` and `object.checksum`.

`processor work processor.jobs:app --topic copy` runs them.
"""

from __future__ import annotations

from processor.app import App
from processor.jobs.checksum import ObjectChecksum, checksum
from processor.jobs.copy import Context, ObjectCopy, copy

__all__ = ["Context", "ObjectChecksum", "ObjectCopy", "app", "checksum", "copy"]

TIMEOUT_SECONDS = 3600.0  # 5 GiB on a slow link, with room.

app = App()
app.job("object.copy", topic="copy", timeout=TIMEOUT_SECONDS)(copy)
app.job("object.checksum", topic="copy", timeout=TIMEOUT_SECONDS)(checksum)
