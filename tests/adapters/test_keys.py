"""Where keys come from: a file, and AWS KMS, which a small server stands in for."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from processor.adapters.keys import keyring_of
from processor.contracts.sealing import Keyring
from processor.errors import ContractError, KeysUnavailable, UsageError
from processor.protection import EncryptionSettings
from tests.serving import served

ARN = "arn:aws:kms:eu-central-1:123456789012:key/"
FIRST, SECOND, THIRD = (f"{ARN}{n}" for n in ("first", "second", "third"))


A_KEY = base64.b64encode(bytes(range(32))).decode()


def key_text() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def write_keys(path: Path, current: str, **keys: str) -> Path:
    lines = [
        f'current = "{current}"',
        "[keys]",
        *(f'"{name}" = "{key}"' for name, key in keys.items()),
    ]
    path.write_text("\n".join(lines))
    return path


def ring(path: Path | None = None, *kms: str, url: str | None = None) -> Keyring:
    made = keyring_of(EncryptionSettings(key_file=path, kms_keys=kms, kms_endpoint_url=url))
    assert made is not None
    return made


def opened(keys: Keyring, sealed: str) -> bytes:
    return keys.open("a.job", "to", sealed)[0]


def test_no_key_source_makes_no_keyring() -> None:
    assert keyring_of(EncryptionSettings()) is None


def test_file_of_keys_is_rotated_without_a_restart(tmp_path: Path) -> None:
    one, two = key_text(), key_text()
    path = write_keys(tmp_path / "keys.toml", "one", one=one)
    producer, worker = ring(path), ring(path)
    before = producer.seal("a.job", "to", b"x")

    write_keys(path, "two", one=one, two=two)
    after = ring(path).seal("a.job", "to", b"y")

    assert (before.split(".")[1], after.split(".")[1]) == ("file:one", "file:two")
    assert (opened(worker, before), opened(worker, after)) == (b"x", b"y")


def test_key_that_is_missing_or_another_is_an_outage_until_it_is_put_back(tmp_path: Path) -> None:
    one, two = key_text(), key_text()
    path = write_keys(tmp_path / "keys.toml", "one", one=one)
    sealed = ring(path).seal("a.job", "to", b"x")
    worker = ring(path)

    write_keys(path, "two", two=two)
    with pytest.raises(KeysUnavailable, match="`one` is not in"):
        opened(worker, sealed)
    write_keys(path, "one", one=two)
    with pytest.raises(KeysUnavailable, match="is not the one that encrypted"):
        opened(worker, sealed)
    path.unlink()
    with pytest.raises(KeysUnavailable, match="cannot be read"):
        opened(worker, sealed)
    write_keys(path, "two", one=one, two=two)

    assert opened(worker, sealed) == b"x"


def test_data_key_that_was_changed_is_the_jobs_fault(tmp_path: Path) -> None:
    keys = ring(write_keys(tmp_path / "keys.toml", "one", one=key_text()))
    prefix, key_id, wrapped, body = keys.seal("a.job", "to", b"x").split(".")
    changed = wrapped[:40] + ("B" if wrapped[40] == "A" else "A") + wrapped[41:]

    with pytest.raises(ContractError, match="was changed"):
        opened(keys, ".".join((prefix, key_id, changed, body)))


@pytest.mark.parametrize("key_id", ["zz", "file:", "file:a/b", "arn:aws:kms:x", "arn:aws:s3:::b"])
def test_id_of_no_known_form_is_the_jobs_fault(tmp_path: Path, key_id: str) -> None:
    keys = ring(write_keys(tmp_path / "keys.toml", "one", one=key_text()))
    wrapped = keys.seal("a.job", "to", b"x").split(".")[2]

    with pytest.raises(ContractError, match="is no key's id"):
        opened(keys, f"pii1.{key_id}.{wrapped}.AAAA")


@pytest.mark.parametrize("wrapped", ["AAAA", "A", "A" * 84, "A" * 88])
@pytest.mark.parametrize("name", ["one", "nosuch"])
def test_data_key_of_a_length_that_is_none_is_the_jobs_fault(
    tmp_path: Path, name: str, wrapped: str
) -> None:
    keys = ring(write_keys(tmp_path / "keys.toml", "one", one=key_text()))

    with pytest.raises(ContractError, match="it is none"):
        opened(keys, f"pii1.file:{name}.{wrapped}.AAAA")


@pytest.mark.parametrize("wrapped", ["A", "A" * 9000])
def test_kms_is_not_asked_for_a_data_key_of_a_length_that_is_none(kms: Kms, wrapped: str) -> None:
    keys = ring(None, FIRST, url=kms.url)

    with pytest.raises(ContractError, match="it is none"):
        opened(keys, f"pii1.{FIRST}.{wrapped}.AAAA")

    assert kms.calls == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("current = [", "is not TOML"),
        ('current = "one"', "has no keys"),
        (f'current = "two"\n[keys]\none = "{A_KEY}"', "which key is `current`"),
        (f'current = ["one"]\n[keys]\none = "{A_KEY}"', "which key is `current`"),
        ('current = "one"\n[keys]\none = "c2hvcnQ="', "no base64 of 32 bytes"),
        ('current = "one"\n[keys]\none = 7', "no base64 of 32 bytes"),
        (f'current = "a.b"\n[keys]\n"a.b" = "{A_KEY}"', "an id is of letters"),
    ],
)
def test_file_that_is_none_of_keys_is_refused_at_once(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match=told) as refused:
        ring(path)

    assert "c2hvcnQ" not in str(refused.value)


@pytest.mark.parametrize("text", ["", 'current = "one"\n[keys]\none = "3q2', f'one = "{A_KEY}"'])
def test_file_that_is_half_written_is_waited_for(tmp_path: Path, text: str) -> None:
    one, two = key_text(), key_text()
    path = write_keys(tmp_path / "keys.toml", "two", one=one, two=two)
    sealed = ring(path).seal("a.job", "to", b"x")
    worker = ring(write_keys(path, "one", one=one))

    path.write_text(text)
    with pytest.raises(KeysUnavailable, match=r"the key file .* (is not TOML|has no keys)"):
        opened(worker, sealed)
    with pytest.raises(KeysUnavailable, match="the key file"):
        worker.seal("a.job", "to", b"y")
    write_keys(path, "two", one=one, two=two)

    assert opened(worker, sealed) == b"x"


class Kms(ThreadingHTTPServer):
    """KMS as its HTTP protocol has it: GenerateDataKey and Decrypt over keys in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        self.keys = {arn: os.urandom(32) for arn in (FIRST, SECOND, THIRD)}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refusal: str | None = None
        self.odd: bytes | None = None  # What answers instead.
        super().__init__(("127.0.0.1", 0), _Kms)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, action: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append((action, asked))
        if self.refusal is not None:
            return 400, {"__type": self.refusal, "message": "refused"}
        context = json.dumps(asked["EncryptionContext"], sort_keys=True).encode()
        key = AESGCM(self.keys[asked["KeyId"]])
        if action == "GenerateDataKey":
            plain, nonce = os.urandom(32), os.urandom(12)
            wrapped = nonce + key.encrypt(nonce, plain, context)
        else:
            wrapped = base64.b64decode(asked["CiphertextBlob"])
            try:
                plain = key.decrypt(wrapped[:12], wrapped[12:], context)
            except InvalidTag:
                return 400, {"__type": "InvalidCiphertextException", "message": ""}
        told = {"Plaintext": plain, "CiphertextBlob": wrapped}
        return 200, {
            "KeyId": asked["KeyId"], **{k: base64.b64encode(v).decode() for k, v in told.items()},
        }  # fmt: skip


class _Kms(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Kms)
        action = self.headers["x-amz-target"].removeprefix("TrentService.")
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, document = self.server.answer(action, asked)
        body = json.dumps(document).encode() if self.server.odd is None else self.server.odd
        self.send_response(status)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with served(Kms()) as server:
        yield server


def test_kms_makes_and_opens_data_keys_and_sees_no_value(kms: Kms) -> None:
    producer, worker = ring(None, FIRST, url=kms.url), ring(None, FIRST, url=kms.url)

    sealed = [producer.seal("a.job", "to", f"Ada {n}".encode()) for n in range(50)]
    seen = [opened(worker, each) for each in sealed]

    assert seen == [f"Ada {n}".encode() for n in range(50)]
    assert [action for action, _ in kms.calls] == ["GenerateDataKey", "Decrypt"]
    assert {asked["EncryptionContext"]["job_type"] for _, asked in kms.calls} == {"a.job"}
    assert sealed[0].split(".")[1] == FIRST
    assert "Ada" not in str(kms.calls)


@pytest.mark.parametrize(
    "answer",
    [b"<html>Sign in</html>", b"", b"{}", b"null", b"[]", b'{"Plaintext": 5}',
     b'{"Plaintext": "%%%", "CiphertextBlob": "AAAA"}'],
)  # fmt: skip
def test_what_is_no_kms_is_away_and_no_jobs_fault(kms: Kms, answer: bytes) -> None:
    sealed = ring(None, FIRST, url=kms.url).seal("a.job", "to", b"x")
    worker = ring(None, FIRST, url=kms.url)

    kms.odd = answer
    with pytest.raises(KeysUnavailable, match="is no KMS"):
        opened(worker, sealed)
    with pytest.raises(KeysUnavailable, match="is no KMS"):
        worker.seal("a.job", "to", b"y")
    kms.odd = None

    assert opened(worker, sealed) == b"x"


def test_data_key_of_another_length_seals_nothing(kms: Kms) -> None:
    kms.odd = b'{"Plaintext": "AAAA", "CiphertextBlob": "AAAA"}'

    with pytest.raises(KeysUnavailable, match="is no KMS"):
        ring(None, FIRST, url=kms.url).seal("a.job", "to", b"x")


def test_kms_key_is_rotated_and_one_that_is_not_listed_opens_nothing(kms: Kms) -> None:
    before = ring(None, FIRST, url=kms.url).seal("a.job", "to", b"x")
    rotated = ring(None, SECOND, FIRST, url=kms.url)
    after = rotated.seal("a.job", "to", b"y")

    assert after.split(".")[1] == SECOND
    assert (opened(rotated, before), opened(rotated, after)) == (b"x", b"y")
    with pytest.raises(KeysUnavailable, match=r"not among encryption\.kms_keys"):
        opened(ring(None, SECOND, url=kms.url), before)


def test_kms_opens_what_the_file_has_sealed_before_the_move(kms: Kms, tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.toml", "one", one=key_text())
    before = ring(path).seal("a.job", "to", b"x")
    both = ring(path, FIRST, url=kms.url)

    assert both.seal("a.job", "to", b"y").split(".")[1] == FIRST
    assert opened(both, before) == b"x"
    with pytest.raises(KeysUnavailable, match="no key source of the settings holds `file:one`"):
        opened(ring(None, FIRST, url=kms.url), before)


@pytest.mark.parametrize(
    "refusal", ["AccessDeniedException", "DisabledException", "KMSInvalidStateException",
                "NotFoundException"]
)  # fmt: skip
def test_kms_that_refuses_is_an_outage(kms: Kms, refusal: str) -> None:
    keys = ring(None, FIRST, url=kms.url)
    sealed = keys.seal("a.job", "to", b"x")
    kms.refusal = refusal

    for ask in (
        lambda: opened(ring(None, FIRST, url=kms.url), sealed),
        lambda: ring(None, FIRST, url=kms.url).seal("a.job", "to", b"x"),
    ):
        with pytest.raises(KeysUnavailable, match=refusal):
            ask()


def test_data_key_that_kms_has_not_wrapped_so_is_the_jobs_fault(kms: Kms) -> None:
    keys = ring(None, FIRST, url=kms.url)
    prefix, key_id, wrapped, body = keys.seal("a.job", "to", b"x").split(".")

    with pytest.raises(ContractError, match="does not open it"):
        opened(keys, ".".join((prefix, key_id, wrapped[:-8] + "AAAAAAAA", body)))


def test_kms_that_does_not_answer_is_an_outage(kms: Kms) -> None:
    keys = ring(None, FIRST, url="http://127.0.0.1:9")

    with pytest.raises(KeysUnavailable, match="does not answer"):
        keys.seal("a.job", "to", b"x")


def test_alias_is_no_kms_key() -> None:
    with pytest.raises(ValueError, match="no alias"):
        EncryptionSettings(kms_keys=("alias/pii",))


@pytest.mark.parametrize("url", ["http://", "https://a b/", "http://-x-:port"])
def test_endpoint_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match=r"encryption\.kms_endpoint_url names no endpoint"):
        ring(None, FIRST, url=url)


def test_spoilt_setting_of_the_sdk_is_an_outage(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "many")

    with pytest.raises(KeysUnavailable, match="AWS KMS cannot be asked"):
        ring(None, FIRST, url=kms.url).seal("a.job", "to", b"x")
