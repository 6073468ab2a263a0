"""An object store whose reads and writes are traced, as parts of what is current."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from processor.contracts.claims import ObjectStat, ObjectStore, Put, Reader, Stream

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from processor.adapters.tracing import OpenTelemetry


class TracedObjects:
    """Another store, traced (port: `contracts.claims.ObjectStore`). `what` is in the spans' names.

    A span tells the store of an object and its size. Not its name, which may tell of a person.
    """

    def __init__(self, objects: ObjectStore, tracing: OpenTelemetry, what: str) -> None:
        self._objects = objects
        self._tracing = tracing
        self._what = what

    def open(self, uri: str) -> Reader:
        """Open an object for reading; the span ends when it is closed."""
        span = self._tracing.begin_step(f"read {self._what}", _store_of(uri))
        try:
            return _TracedReader(self._objects.open(uri), span)
        except BaseException as error:
            _end(span, error)
            raise

    def stat(self, uri: str) -> ObjectStat | None:
        """Tell what is known of an object; None: there is none."""
        return self._objects.stat(uri)

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
        """Write an object, whole and checked, or not at all."""
        with self._tracing.step(f"write {self._what}", _store_of(uri)) as span:
            if size is not None:
                span.set_attribute("processor.object.bytes", size)
            return self._objects.put(
                uri,
                stream,
                size=size,
                sha256=sha256,
                content_type=content_type,
                create_only=create_only,
            )

    def delete(self, uri: str) -> None:
        """Remove an object; a missing one is no fault."""
        self._objects.delete(uri)


class _TracedReader:
    """An open object and the span of its reading."""

    def __init__(self, reader: Reader, span: Span) -> None:
        self._reader = reader
        self._span = span
        self._bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        try:
            chunk = self._reader.read(size)
        except BaseException as error:
            _end(self._span, error)
            raise
        self._bytes += len(chunk)
        return chunk

    def close(self) -> None:
        self._reader.close()
        self._told()

    def __enter__(self) -> _TracedReader:
        self._reader.__enter__()
        return self

    def __exit__(self, *exc: Any) -> object:
        try:
            return self._reader.__exit__(*exc)
        finally:
            self._told()

    def _told(self) -> None:
        if self._span.is_recording():
            self._span.set_attribute("processor.object.bytes", self._bytes)
            self._span.end()


def _end(span: Span, error: BaseException) -> None:
    if span.is_recording():
        span.set_attribute("error.type", type(error).__name__)
        span.end()


def _store_of(uri: str) -> dict[str, str]:
    """Name the store that an object is in: its scheme, and bucket or host."""
    try:
        parts = urlsplit(uri)
        return {"processor.object.store": f"{parts.scheme}://{parts.hostname or ''}"}
    except ValueError:
        return {}
