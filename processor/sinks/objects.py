"""Results as objects: one JSON document per job, under a name that the job alone decides.

The name is `<base>/<job_type>/<job_id>.json`, or `…/key~~<job_type>~3A<idempotency key>.json` for
jobs with an idempotency key. It is only ever created: a job whose effect is written twice leaves
one document, the first, and so do two jobs of one idempotency key that run side by side.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from urllib.parse import quote

from processor.contracts.claims import ObjectStore
from processor.errors import PermanentError, SinkUnavailable, StoreUnavailable
from processor.model import Effect

NAME_BYTES_MAX = 200  # File systems allow 255 for one segment, `.json` included.


class ObjectSink:
    """Writes results below `base_uri` (`file:///…` or `s3://bucket/prefix`). Safe for threads."""

    def __init__(self, objects: ObjectStore, base_uri: str) -> None:
        self._objects = objects
        self._base = base_uri.rstrip("/")

    def write(self, effects: Sequence[Effect]) -> list[str]:
        """Write each result once and give the documents' URIs, in the order of the effects.

        A document that is there already is success. SinkUnavailable: some may be written, and
        writing all again is safe. PermanentError: a result is not JSON; nothing was written.
        """
        documents = [(self.uri(effect), _document(effect)) for effect in effects]
        for uri, body in documents:
            try:
                self._objects.put(
                    uri,
                    io.BytesIO(body),
                    size=len(body),
                    sha256=hashlib.sha256(body).hexdigest(),
                    content_type="application/json",
                    create_only=True,
                )
            except (StoreUnavailable, PermanentError) as fault:
                # The base comes from configuration: a denied write is not the job's fault.
                raise SinkUnavailable(
                    f"the result {uri} cannot be written: {fault.message}", hint=fault.hint
                ) from fault
        return [uri for uri, _ in documents]

    def uri(self, effect: Effect) -> str:
        """Name the document of a job's result."""
        kind, _, text = effect.identity.partition(":")
        name = safe_name(text) if kind == "job" else f"key~~{safe_name(text)}"
        return f"{self._base}/{safe_name(effect.job_type)}/{name}.json"


def safe_name(text: str) -> str:
    """Make one segment of a name of any text; two texts never share a name.

    Percent-encoding with `~` for `%`, because a percent sign means one thing in a file's URI and
    another in an S3 key. What would be too long ends in its SHA-256 instead.

    >>> safe_name("orders-7-4711"), safe_name("../a b")
    ('orders-7-4711', '..~2Fa~20b')
    """
    name = quote(text, safe="", errors="surrogatepass").replace("~", "~7E").replace("%", "~")
    if name in ("", ".", ".."):
        return "~" + name.replace(".", "~2E")
    if len(name) > NAME_BYTES_MAX:
        return f"{name[:100]}~~{hashlib.sha256(name.encode()).hexdigest()}"
    return name


def _document(effect: Effect) -> bytes:
    document = {
        "job_id": effect.job_id,
        "job_type": effect.job_type,
        "key": effect.key,
        "result": effect.result,
    }
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True)
        return f"{text}\n".encode()
    except (TypeError, ValueError) as fault:
        raise PermanentError(
            f"the result of job {effect.job_id} is not JSON: {fault}",
            hint="return None, or a value made of dict, list, str, int, float and bool",
        ) from fault
