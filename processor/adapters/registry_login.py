"""How we are known to the schema registry: a password, a token or a certificate, and whom we trust.

A token's file is read at every request. A password's file is read again when the registry refuses
the one in use. Certificates, their keys and the authority are read once, when the client is made.
"""

from __future__ import annotations

import ssl
from typing import Any

from pydantic import SecretStr

from processor.errors import UsageError
from processor.settings import RegistrySettings
from processor.sources import FromFile


class RegistryLogin:
    """What the client and plain requests are given. Nothing is read before it is asked for."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._password = _value(settings.password)

    def client_settings(self) -> dict[str, Any]:
        """What confluent-kafka's client is made with."""
        settings = self._settings
        given: dict[str, Any] = {
            "ssl.ca.location": settings.ca_location,
            "ssl.certificate.location": settings.certificate_location,
            "ssl.key.location": settings.key_location,
        }
        config = {name: str(path) for name, path in given.items() if path is not None}
        if settings.key_password is not None:
            config["ssl.key.password"] = settings.key_password.get_secret_value()
        if self._password is not None:
            config["basic.auth.user.info"] = f"{settings.username}:{self._password}"
        if settings.token is None:
            return config
        return {
            **config,
            "bearer.auth.credentials.source": "CUSTOM",
            "bearer.auth.custom.provider.function": self._token_fields,
            "bearer.auth.custom.provider.config": {},
        }

    def request_options(self) -> dict[str, Any]:
        """What a request of httpx is made with."""
        settings = self._settings
        options: dict[str, Any] = {}
        if settings.token is not None:
            options["headers"] = {"Authorization": f"Bearer {_now(settings.token)}"}
        elif self._password is not None:
            options["auth"] = (settings.username, self._password)
        if settings.ca_location is not None or settings.certificate_location is not None:
            options["verify"] = self._context()
        return options

    def renewed(self) -> bool:
        """Read the password's file again. True: it holds another, which a new client would use."""
        before = self._password
        if isinstance(before, FromFile):
            self._password = before.again()
        return self._password != before

    def _token_fields(self, _: Any) -> dict[str, str]:
        assert self._settings.token is not None
        # The client sends the second to Confluent's cloud; it may not be left out.
        return {
            "bearer.auth.token": _now(self._settings.token),
            "bearer.auth.logical.cluster": "",
        }

    def _context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca_location)
            if settings.certificate_location is not None:
                password = settings.key_password
                context.load_cert_chain(
                    settings.certificate_location,
                    settings.key_location,
                    None if password is None else password.get_secret_value(),
                )
        except OSError as fault:
            raise certificates_do_not_fit(fault) from None
        return context


def certificates_do_not_fit(fault: OSError) -> UsageError:
    """Tell of files that are no certificates or keys, or do not belong together."""
    return UsageError(
        f"the registry's certificates cannot be used: {fault}",
        hint="check registry.ca_location, certificate_location, key_location and key_password",
    )


def _value(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _now(secret: SecretStr) -> str:
    value = secret.get_secret_value()
    return str(value.again() if isinstance(value, FromFile) else value)
