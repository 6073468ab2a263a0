from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.contracts.avro import VALUE_BYTES_MAX
from processor.contracts.claims import (
    CLAIM_BYTES_MAX,
    RENEW_SECONDS,
    ClaimStore,
    Put,
    claim_from_header,
    claim_to_header,
    verified,
)
from processor.errors import ContractError, PermanentError, StoreUnavailable
from processor.model import Claim
from tests.adapters.objects.memory import MemoryStore

BASE = "s3://claims/big"
BODY = b"a value over the limit"
SHA256 = hashlib.sha256(BODY).hexdigest()


def test_claimed_value_comes_back_from_under_the_name_of_its_hash() -> None:
    store = ClaimStore(MemoryStore(), f"{BASE}/")

    claim = store.put(BODY)

    assert claim == Claim(f"{BASE}/{SHA256[:2]}/{SHA256}", len(BODY), SHA256)
    assert store.get(claim, size_max=len(BODY)) == BODY
    assert store.put(io.BytesIO(BODY)) == claim


def test_putting_a_value_again_leaves_the_object_alone() -> None:
    objects = MemoryStore()
    claim = ClaimStore(objects, BASE).put(BODY)
    kept = objects.objects[claim.uri]

    ClaimStore(objects, BASE).put(BODY)

    assert objects.objects == {claim.uri: kept}
    assert objects.objects[claim.uri] is kept


@pytest.mark.parametrize("other", [b"poison", BODY[::-1]])
def test_other_content_under_a_claims_name_is_written_over(other: bytes) -> None:
    objects = MemoryStore()
    uri = f"{BASE}/{SHA256[:2]}/{SHA256}"
    objects.put(uri, io.BytesIO(other), create_only=True)  # As `object.copy` may.

    claim = ClaimStore(objects, BASE).put(BODY)

    assert ClaimStore(objects, BASE).get(claim, size_max=len(BODY)) == BODY


class Dated(MemoryStore):
    """Tells when its objects were written, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.puts: list[str] = []

    def put(self, uri: str, stream: Any, **more: Any) -> Put:
        put = super().put(uri, stream, **more)
        if put.created:
            self.puts.append(uri)
            self.stats[uri] = replace(self.stats[uri], modified=self.now)
        return put


@pytest.fixture
def dated() -> tuple[Dated, ClaimStore]:
    objects = Dated()
    return objects, ClaimStore(objects, BASE, now=lambda: objects.now)


@pytest.mark.parametrize(("later", "puts"), [(RENEW_SECONDS, 1), (RENEW_SECONDS + 1, 2)])
@pytest.mark.parametrize("value", [BODY, io.BytesIO(BODY)])
def test_value_put_again_after_a_day_is_written_again(
    dated: tuple[Dated, ClaimStore], later: float, puts: int, value: Any
) -> None:
    objects, store = dated
    claim = store.put(BODY)
    objects.now += later
    if isinstance(value, io.BytesIO):
        value.seek(0)

    assert store.put(value) == claim

    assert objects.puts == [claim.uri] * puts
    assert objects.objects[claim.uri] == BODY


@pytest.mark.parametrize(("later", "puts"), [(RENEW_SECONDS, 0), (RENEW_SECONDS + 1, 1)])
def test_renewed_claim_is_written_again_under_its_own_name(
    dated: tuple[Dated, ClaimStore], later: float, puts: int
) -> None:
    objects, store = dated
    foreign = Claim(f"{BASE}/theirs", len(BODY), SHA256)
    objects.put(foreign.uri, io.BytesIO(BODY), create_only=True)
    objects.puts.clear()
    objects.now += later

    store.renew(foreign, size_max=100)

    assert objects.puts == [foreign.uri] * puts


@pytest.mark.parametrize(
    "claim",
    [
        Claim("s3://other/theirs", len(BODY), SHA256),
        Claim(f"{BASE}/missing", len(BODY), SHA256),
        Claim(f"{BASE}/theirs", len(BODY), "0" * 64),
        Claim(f"{BASE}/theirs", 101, SHA256),
    ],
)
def test_claim_that_no_job_can_use_is_not_renewed(
    dated: tuple[Dated, ClaimStore], claim: Claim
) -> None:
    objects, store = dated
    objects.put(f"{BASE}/theirs", io.BytesIO(BODY), create_only=True)
    objects.now += RENEW_SECONDS + 1

    store.renew(claim, size_max=100)

    assert objects.puts == [f"{BASE}/theirs"]


def test_outage_while_a_claim_is_renewed_is_told(dated: tuple[Dated, ClaimStore]) -> None:
    objects, store = dated
    claim = store.put(BODY)
    objects.fault = StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        store.renew(claim, size_max=100)


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://other/big/{SHA256}",
        f"s3://claims/bigger/{SHA256}",
        f"s3://claims/{SHA256}",
        "s3://claims/big",
        "s3://claims/big/",
        "s3://claims/big/../secret",
        "s3://claims/big/a/../../secret",
        "s3://claims/big/%2e%2e/secret",
        "s3://claims/big//secret",
        "s3://claims/big/.hidden",
        "s3://claims/big/a\n",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "https://files.example/a?signature=s3cret",
    ],
)
def test_claim_outside_the_base_is_refused_and_nothing_is_read(uri: str) -> None:
    objects = MemoryStore(objects={uri: BODY})

    with pytest.raises(ContractError, match="claim store s3://claims/big") as refused:
        ClaimStore(objects, BASE).get(Claim(uri, len(BODY), SHA256), size_max=1000)

    assert "s3cret" not in str(refused.value)
    assert objects.opened == []


def test_claim_over_the_size_limit_is_refused_and_nothing_is_read() -> None:
    objects = MemoryStore()
    claim = ClaimStore(objects, BASE).put(BODY)

    with pytest.raises(ContractError, match="over the limit of 21"):
        ClaimStore(objects, BASE).get(claim, size_max=len(BODY) - 1)

    assert objects.opened == []


def test_no_claim_is_fetched_whose_value_would_not_be_decoded() -> None:
    assert CLAIM_BYTES_MAX == VALUE_BYTES_MAX


@pytest.mark.parametrize("stored", [BODY + b"!", BODY[:-1], BODY[:-1] + b"!", b""])
def test_object_that_is_not_what_was_claimed_is_refused(stored: bytes) -> None:
    objects = MemoryStore()
    claim = ClaimStore(objects, BASE).put(BODY)
    objects.objects[claim.uri] = stored

    with pytest.raises(ContractError, match=r"expected|longer than"):
        ClaimStore(objects, BASE).get(claim, size_max=1000)


def test_missing_claim_object_is_a_contract_error() -> None:
    claim = Claim(f"{BASE}/{SHA256}", len(BODY), SHA256)

    with pytest.raises(ContractError, match="does not exist"):
        ClaimStore(MemoryStore(), BASE).get(claim, size_max=1000)


def test_denied_claim_store_is_an_outage_for_no_job_is_to_blame() -> None:
    objects = MemoryStore()
    claim = ClaimStore(objects, BASE).put(BODY)
    objects.fault = PermanentError("access is denied")

    with pytest.raises(StoreUnavailable, match=r"claims/big .*access is denied"):
        ClaimStore(objects, BASE).get(claim, size_max=1000)
    with pytest.raises(StoreUnavailable, match="access is denied") as refused:
        ClaimStore(objects, BASE).put(b"another")
    assert refused.value.hint
    assert list(objects.objects) == [claim.uri]


@given(
    uri=st.text(max_size=200).map(lambda text: f"s3://{text}"),
    size=st.integers(0, 2**63),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
)
def test_claim_survives_its_header(uri: str, size: int, sha256: str) -> None:
    claim = Claim(uri, size, sha256)

    assert claim_from_header(claim_to_header(claim)) == claim


GOOD = {"uri": "s3://b/k", "size": 3, "sha256": SHA256}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"3",
        b"[]",
        b"{}",
        b"[" * 4000,
        b"1" * 4000,
        json.dumps(GOOD).encode()[:-1],
        json.dumps(GOOD | {"more": 1}).encode(),
        json.dumps({"uri": "s3://b/k", "size": 3}).encode(),
        json.dumps(list(GOOD.items())).encode(),
        json.dumps(GOOD).encode()[:-1] + b',"size":4}',
        json.dumps(GOOD | {"uri": "x" * 5000}).encode(),
        json.dumps(GOOD | {"uri": "no scheme"}).encode(),
        json.dumps(GOOD | {"uri": None}).encode(),
        json.dumps(GOOD | {"size": -1}).encode(),
        json.dumps(GOOD | {"size": True}).encode(),
        json.dumps(GOOD | {"size": 3.0}).encode(),
        json.dumps(GOOD | {"size": "3"}).encode(),
        json.dumps(GOOD | {"sha256": SHA256.upper()}).encode(),
        json.dumps(GOOD | {"sha256": SHA256[:-1]}).encode(),
        json.dumps(GOOD | {"sha256": SHA256 + "\n"}).encode(),
        json.dumps(GOOD | {"sha256": ["a"]}).encode(),
    ],
)
def test_header_that_is_no_claim_is_refused(header: bytes) -> None:
    assert claim_from_header(json.dumps(GOOD).encode())

    with pytest.raises(ContractError):
        claim_from_header(header)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_header_fail_otherwise(header: bytes) -> None:
    try:
        claim_from_header(header)
    except ContractError:
        return


@pytest.mark.parametrize("step", [1, 5, len(BODY), 1000, -1])
def test_true_content_passes_however_it_is_read(step: int) -> None:
    stream = verified(io.BytesIO(BODY), size=len(BODY), sha256=SHA256)

    assert b"".join(iter(lambda: stream.read(step), b"")) == BODY
    assert (stream.count, stream.sha256) == (len(BODY), SHA256)


@pytest.mark.parametrize("step", [1, 5, len(BODY), 1000, -1])
@pytest.mark.parametrize("size", [None, len(BODY)])
@pytest.mark.parametrize("changed", [BODY[:-1], BODY + b"!", b"!" + BODY[1:], b""])
def test_changed_content_fails_however_it_is_read(
    changed: bytes, size: int | None, step: int
) -> None:
    stream = verified(io.BytesIO(changed), size=size, sha256=SHA256, name="s3://b/k")

    with pytest.raises(ContractError, match="s3://b/k"):
        while stream.read(step):
            pass


def test_last_bytes_of_changed_content_are_not_handed_over() -> None:
    stream = verified(io.BytesIO(b"!" + BODY[1:]), size=len(BODY), sha256=SHA256)

    assert stream.read(0) == b""
    assert len(stream.read(len(BODY) - 1)) == len(BODY) - 1
    with pytest.raises(ContractError):
        stream.read(1)


def test_claim_of_nothing_is_a_claim() -> None:
    store = ClaimStore(MemoryStore(), BASE)

    claim = store.put(b"")

    assert store.get(claim, size_max=0) == b""
    with pytest.raises(ContractError):
        store.get(replace(claim, size=1), size_max=10)
