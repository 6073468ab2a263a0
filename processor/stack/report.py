"""What the stack tells whoever watches it: a port to the terminal, a log or nowhere."""

from __future__ import annotations

import logging
from typing import Protocol

_log = logging.getLogger("processor.stack")


class Report(Protocol):
    """Hears of downloads and of facts worth a line. Called from several threads."""

    def say(self, text: str) -> None:
        """Tell one fact, such as a port that had to be another."""

    def downloading(self, name: str, bytes_total: int) -> None:
        """Begin the download `name`."""

    def received(self, name: str, bytes_count: int) -> None:
        """Count bytes of it; negative where a failed piece is given back."""

    def downloaded(self, name: str) -> None:
        """End the download `name`, all of it verified."""


class LogReport:
    """Tells the standard logger `processor.stack`: what tests and programs want."""

    def say(self, text: str) -> None:
        """Log one fact."""
        _log.info("%s", text)

    def downloading(self, name: str, bytes_total: int) -> None:
        """Log that a download begins."""
        _log.info("downloading %s (%.1f MB)", name, bytes_total / 1e6)

    def received(self, name: str, bytes_count: int) -> None:
        """Nothing: a log has no bar to move."""

    def downloaded(self, name: str) -> None:
        """Log that a download ended."""
        _log.info("downloaded %s", name)
