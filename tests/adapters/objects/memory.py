"""An object store in memory that keeps the port's promises; the real ones pass the same suite."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field

from processor.contracts.claims import ObjectStat, Put, Reader, Stream, verified
from processor.errors import ContractError, ProcessorError


@dataclass
class MemoryStore:
    """Objects by URI. `fault`, when set, is what every call raises; `opened` is what was read."""

    objects: dict[str, bytes] = field(default_factory=dict)
    stats: dict[str, ObjectStat] = field(default_factory=dict)
    fault: ProcessorError | None = None
    opened: list[str] = field(default_factory=list)
    _publishing: threading.Lock = field(default_factory=threading.Lock)

    def open(self, uri: str) -> Reader:
        self._answer()
        self.opened.append(uri)
        if uri not in self.objects:
            raise ContractError(f"{uri} does not exist")
        return io.BytesIO(self.objects[uri])

    def stat(self, uri: str) -> ObjectStat | None:
        self._answer()
        return self.stats.get(uri)

    def put(
        self,
        uri: str,
        stream: Stream,
        *,
        size: int | None = None,
        sha256: str | None = None,
        content_type: str | None = None,
        create_only: bool,
    ) -> Put:
        self._answer()
        checked = verified(stream, size=size, sha256=sha256, name=uri)
        body = bytearray()
        while chunk := checked.read(1024 * 1024):
            body += chunk
        with self._publishing:
            if create_only and (existing := self.stats.get(uri)) is not None:
                return Put(uri, existing.size, existing.sha256, created=False)
            self.objects[uri] = bytes(body)
            self.stats[uri] = ObjectStat(checked.count, checked.sha256, content_type)
        return Put(uri, checked.count, checked.sha256, created=True)

    def delete(self, uri: str) -> None:
        self._answer()
        self.objects.pop(uri, None)
        self.stats.pop(uri, None)

    def _answer(self) -> None:
        if self.fault is not None:
            raise self.fault
