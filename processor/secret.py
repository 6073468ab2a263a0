"""Which settings are secrets, and what of a value a person may see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr

MASK = "***"
PATH_LENGTH_MAX = 255

_SECRET_NAME = re.compile(
    r"password|passphrase|secret|jaas|token|key\.pem|ssl_key|oauthbearer\.config"
)
_PATH_NAME = re.compile(r".*[._](file|location|dir|keytab|paths?)")
_URL_NAME = re.compile(r".*[._]url")
# What is no such URL may hold a password anywhere, and is not shown at all.
_URL = re.compile(
    r"[\w+.-]+:///.*|[\w+.-]+://([^\s@/?#]*@)?[^\s@/?#]*(/[^\s@?#]*)?([?#]\S*)?", re.DOTALL
)
# What stands before a password, and the password: after a user's name; in place of both; in a
# URL's query or libpq's words.
_PASSWORDS = (
    re.compile(r"(://[^:/@]*:)(.+)(?=@)", re.DOTALL),
    re.compile(r"(https?://)([^:/@?#]+)(?=:?@)"),
    re.compile(r"((?:password|secret|token)\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s]+)", re.IGNORECASE),
)


def secret_name(name: str) -> bool:
    """Whether the setting's name says that its value is a secret."""
    return bool(_SECRET_NAME.search(name)) and not name.endswith((".url", ".location", "_url"))


def names_path(name: str) -> bool:
    """Whether the setting's name says that its value is a path."""
    return bool(_PATH_NAME.fullmatch(name))


def passwords_in(text: str) -> Iterator[str]:
    """Give the passwords in a URL or in libpq's words, as they are and as they are meant."""
    for pattern in _PASSWORDS:
        for match in pattern.finditer(text):
            written = match[2]
            yield from dict.fromkeys([written, unquote(written), written.strip("'")])


def masked(name: str, value: Any) -> Any:
    """The value as a person may see it: secrets and passwords inside URLs as `***`."""
    if value is None:
        return None
    if isinstance(value, SecretStr) or secret_name(name):
        return MASK
    if isinstance(value, list | tuple):
        return [masked(name, each) for each in value]
    if isinstance(value, Path) or names_path(name):
        return path_told(value)
    if not isinstance(value, str):
        return value
    if _URL_NAME.fullmatch(name) and value != "none" and not _URL.fullmatch(value):
        return MASK
    for pattern in _PASSWORDS:
        value = pattern.sub(rf"\1{MASK}", value)
    return value


def path_told(path: object) -> str:
    """A path as a person may see it: what is long or has several lines is no path but a content."""
    text = str(path)
    return text if len(text) <= PATH_LENGTH_MAX and text.isprintable() else MASK
