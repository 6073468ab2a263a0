"""Key-encryption keys in AWS KMS: data keys are made and opened there, the keys never leave it.

Each data key carries the job type as encryption context (`job_type`), so a key's policy can limit
who reads which jobs, and the audit trail names them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from processor.contracts.sealing import DataKey, KeyUnknown
from processor.errors import ContractError, KeysUnavailable, UsageError
from processor.protection import EncryptionSettings

TIMEOUT_SECONDS = 5.0
ATTEMPTS_MAX = 3
PREFIX = "arn:"
DATA_KEY_BYTES = 32
WRAPPED_BYTES_MAX = 6144  # KMS takes no more.
# What KMS says of bytes that it has not wrapped so. All else may pass, or is for an operator.
_SPOILED = {"InvalidCiphertextException", "IncorrectKeyException", "ValidationException"}
# What the SDK raises, and a missing field, where a proxy or a login page answers.
_NO_KMS = (LookupError, TypeError, AttributeError, ValueError, RecursionError)


class _Answer(NamedTuple):
    plain: bytes
    wrapped: bytes = b""


class Kms:
    """A key source over KMS keys: the first one wraps, each of them opens."""

    def __init__(self, settings: EncryptionSettings) -> None:
        self._keys: Sequence[str] = settings.kms_keys
        self._endpoint_url = settings.kms_endpoint_url
        self._clients: dict[str, Any] = {}
        self._making = threading.Lock()
        if self._endpoint_url is not None and not _is_endpoint(self._endpoint_url):
            raise UsageError(
                "encryption.kms_endpoint_url names no endpoint",
                hint="write https://<host>, or leave it out",
            )

    def new(self, job_type: str) -> DataKey:
        """Make a data key under the first key."""
        key = self._keys[0]
        answer = self._call(
            key, "generate_data_key", KeySpec="AES_256", EncryptionContext={"job_type": job_type}
        )
        return DataKey(key, answer.wrapped, answer.plain)

    def unwrap(self, key_id: str, wrapped: bytes, job_type: str) -> bytes:
        """Give a data key back. KeyUnknown: the key is none of ours. KeysUnavailable."""
        if not 1 <= len(wrapped) <= WRAPPED_BYTES_MAX:
            raise ContractError(f"a data key of `{job_type}` has {len(wrapped)} bytes: it is none")
        if key_id not in self._keys:
            raise KeyUnknown(
                f"the KMS key {key_id} is not among encryption.kms_keys",
                hint="list it behind the first one, which encrypts",
            )
        answer = self._call(
            key_id, "decrypt", CiphertextBlob=wrapped, EncryptionContext={"job_type": job_type}
        )
        return answer.plain

    def _call(self, key: str, method: str, **given: Any) -> _Answer:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            told: dict[str, Any] = getattr(self._client(key), method)(KeyId=key, **given)
            plain: bytes = told["Plaintext"]
            if method == "decrypt" and plain:
                return _Answer(plain)
            if len(plain) != DATA_KEY_BYTES:
                raise ValueError("no data key of the kind that was asked for")
            return _Answer(plain, told["CiphertextBlob"])
        except ClientError as fault:
            code = str(fault.response.get("Error", {}).get("Code", ""))
            if method == "decrypt" and code in _SPOILED:
                raise ContractError(
                    f"a data key was changed: the KMS key {key} does not open it"
                ) from None
            raise KeysUnavailable(
                f"the KMS key {key} cannot be used: {code}",
                hint="a producer needs kms:GenerateDataKey, a worker kms:Decrypt",
            ) from None
        except BotoCoreError as fault:
            raise KeysUnavailable(
                f"AWS KMS does not answer for {key}: {type(fault).__name__}"
            ) from None
        except (ResponseParserError, *_NO_KMS) as fault:
            raise KeysUnavailable(
                f"what answers for the KMS key {key} is no KMS ({type(fault).__name__})",
                hint="is there a proxy or a login page before it? encryption.kms_endpoint_url",
            ) from None

    def _client(self, key: str) -> Any:
        region = key.split(":")[3]
        with self._making:
            if region not in self._clients:
                self._clients[region] = _client(region, self._endpoint_url)
            return self._clients[region]


def _client(region: str, endpoint_url: str | None) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
        user_agent_extra="processor",
    )
    try:
        session: Any = boto3.Session(region_name=region)
        return session.client("kms", endpoint_url=endpoint_url, config=config)
    except ValueError as fault:  # Of the AWS SDK's own settings.
        raise KeysUnavailable(f"AWS KMS cannot be asked: {fault}") from None


def _is_endpoint(url: str) -> bool:
    from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url

    return bool(is_valid_endpoint_url(url) or is_valid_ipv6_endpoint_url(url))
