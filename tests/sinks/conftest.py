from __future__ import annotations

from tests.acceptance.conftest import project, servers

__all__ = ["project", "servers"]
