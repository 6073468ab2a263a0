"""A secured cluster of three brokers, and a project whose commands run as somebody."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from processor.adapters.acl_admin import AclAdmin
from processor.cli.main import run
from processor.settings import Settings, load_settings
from processor.stack import Stack
from processor.stack.security import ADMIN, Security
from tests.acceptance.project import Project, Ran

# Kafka's own means for development: tokens without a signature.
TOKENS = {
    "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
    "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": (
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
    ),
    "listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class": (
        "org.apache.kafka.common.security.oauthbearer.internals.unsecured"
        ".OAuthBearerUnsecuredValidatorCallbackHandler"
    ),
}


class SecuredProject(Project):
    """A project on a secured cluster. Its commands run as one of the users."""

    def __init__(self, folder: Path, tables: dict[str, Any], security: Security) -> None:
        super().__init__(folder, tables)
        self.security = security

    def environment(self, user: str) -> dict[str, str]:
        """The variables by which a command runs as a user."""
        lines = self.security.environment_path(user).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def typed(self, user: str | Mapping[str, str], *arguments: str) -> Ran:
        """Run a command in this process: as a user, or with these variables."""
        more = self.environment(user) if isinstance(user, str) else user
        out, err = io.StringIO(), io.StringIO()
        before = dict(os.environ)
        os.environ.update(more)
        try:
            with chdir(self.folder), redirect_stdout(out), redirect_stderr(err):
                code = run(arguments)
        except SystemExit as end:  # A job that was waited for has died.
            code = int(end.code or 0)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return Ran(code, out.getvalue(), err.getvalue())

    def settings_of(self, user: str) -> Settings:
        """The settings as a user's commands read them."""
        return load_settings(
            folder=self.folder,
            environ=self.environment(user),
            overrides={
                "schemas_dir": str(self.folder / "schemas"),
                "topics_dir": str(self.folder / "topics"),
            },
        )

    @property
    def admin(self) -> AclAdmin:
        """The access list in the hands of the administrator."""
        return AclAdmin(self.settings_of(ADMIN).kafka)


@pytest.fixture(scope="session")
def secured() -> Iterator[Stack]:
    """Three brokers that know users and tokens, and let nobody do anything."""
    folder = Path(tempfile.mkdtemp(prefix="processor-secured-"))
    stack = Stack(folder, ("kafka",), brokers=3, secure=True, kafka_settings=TOKENS)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop(kill=True)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def security(secured: Stack) -> Security:
    """Its users and files."""
    assert secured.kafka.security is not None
    return secured.kafka.security


@pytest.fixture(scope="session")
def kafka_table(secured: Stack, security: Security) -> dict[str, Any]:
    """`[kafka]` as everybody has it: without a user."""
    return {
        "bootstrap.servers": secured.kafka.bootstrap_servers,
        # A worker that ended is missed soon.
        "session.timeout.ms": 3000,
        "heartbeat.interval.ms": 500,
        **security.common_settings(),
    }


@pytest.fixture
def project(
    tmp_path: Path, kafka_table: dict[str, Any], security: Security, registry: Any
) -> SecuredProject:
    """A project of its own."""
    tables = {"kafka": kafka_table, "registry": {"url": registry.url}}
    return SecuredProject(tmp_path, tables, security)
