"""One connection for each thread that asks for one, let go of when its thread has ended."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """A connection, as far as it matters here."""

    def close(self) -> None:
        """Close it. Twice does no harm."""
        ...


C = TypeVar("C", bound=Closes)


class Connections(Generic[C]):
    """The connections of all threads, by the name of their use.

    Threads end without a word: runs that were given up leave theirs. Each new connection is the
    occasion to close those of threads that live no more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[threading.Thread, str], C] = {}

    def mine(self, name: str = "") -> C | None:
        """The calling thread's connection, if it has one."""
        return self._kept.get((threading.current_thread(), name))

    def keep(self, connection: C, name: str = "") -> None:
        """Make it the calling thread's."""
        with self._lock:
            for thread, each in [key for key in self._kept if not key[0].is_alive()]:
                self._kept.pop((thread, each)).close()
            self._kept[threading.current_thread(), name] = connection

    def drop_mine(self) -> None:
        """Close the calling thread's connections, which may be broken."""
        mine = threading.current_thread()
        with self._lock:
            for key in [key for key in self._kept if key[0] is mine]:
                self._kept.pop(key).close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            for connection in self._kept.values():
                connection.close()
            self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)
