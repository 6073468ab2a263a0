from __future__ import annotations

import pytest

from processor.contracts.uris import shown


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://h/x?X-Amz-Signature=s3cret", "https://h/x"),
        ("https://h?s3cret", "https://h"),
        ("https://h/x#s3cret?", "https://h/x"),
        ("HTTPS://user:s3cret@h:8443/x", "HTTPS://h:8443/x"),
        ("https://user:s3cret@h/x@y", "https://***"),
        ("https://user:s3#cret@h/x", "https://***"),
        ("https://user:s3?cret@h", "https://***"),
        ("https://user:s3/cret@h", "https://***"),
        ("https://user:s@3/cret@h", "https://***"),
        ("s3://user:s3/cret@bucket/key", "s3://***"),
        ("https://h:8443/x@y?a@s3cret", "https://h:8443/x@y"),
        ("https://[::1]:8443/x@y", "https://[::1]:8443/x@y"),
        ("https://a@s3cret@h/x", "https://h/x"),
        ("https://h?to=a@s3cret", "https://h"),
        ("sftp://user:s3cret@h/x", "sftp://h/x"),
        ("file:///srv/a%20b?s3cret", "file:///srv/a%20b"),
        ("s3://user:s3cret@bucket/key", "s3://bucket/key"),
        ("s3://bucket/what? #12 of//a@b", "s3://bucket/what? #12 of//a@b"),
        ("no uri", "no uri"),
        ("", ""),
    ],
)
def test_uri_is_told_without_what_may_be_secret(uri: str, told: str) -> None:
    assert shown(uri) == told
