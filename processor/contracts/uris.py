"""How an object's URI is told: in messages, logs and results, where many may read it."""

from __future__ import annotations

import re

from processor.contracts.masking import MASK

# Else what stands here may be the beginning of a password with a / or # in it.
_HOST = re.compile(r"(\[[^\]]*\]|[^:@]*)(:\d*)?")
BUCKET = "[A-Za-z0-9._-]+"  # A pattern. An ARN is none: it would choose the host that is asked.
_USER = re.compile(r"^([^/]*//)[^/]*@")


def shown(uri: str) -> str:
    """Give a URI without user, password, query and fragment: a signed link is a secret.

    An S3 key is kept as it is: it is a name, and a `?` or `#` is a part of it.

    >>> shown("https://user:word@files.example/a.csv?X-Amz-Signature=4f2c#top")
    'https://files.example/a.csv'
    >>> shown("s3://reports/invoice #12.pdf")
    's3://reports/invoice #12.pdf'
    """
    scheme, _, rest = uri.partition("//")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(host) :] and "/" not in scheme and not _HOST.fullmatch(host):
        return f"{scheme}//{MASK}"  # Where the password ends nobody can tell.
    if not uri.lower().startswith("s3://"):
        uri = re.split(r"[?#]", uri, maxsplit=1)[0]
    return _USER.sub(r"\1", uri)
