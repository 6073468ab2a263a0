"""What secures a local cluster: its own certificate authority, its users, and files with secrets.

Clients log in with a password (SASL_SSL, SCRAM-SHA-512) or with a certificate (SSL); brokers and
controllers know one another by a certificate. Whoever is not named in an ACL may do nothing, but
the super user `admin`. All secrets are made at the first start and stay in the stack's folder.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from processor.stack.process import write_atomically
from processor.stack.site import Site

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, Name

ADMIN = "admin"
USERS = ("producer", "worker", "relay", "operator", "provisioner", ADMIN)
BROKER = "broker"  # The name in the brokers' own certificate.
MECHANISM = "SCRAM-SHA-512"
SCRAM_ITERATIONS = 4096  # The least that Kafka takes: the passwords are random and long.
VALID_DAYS = 3650

BROKER_SETTINGS = {
    "listener.security.protocol.map": "CONTROLLER:SSL,CERTIFICATES:SSL,SASL_SSL:SASL_SSL",
    "inter.broker.listener.name": "CERTIFICATES",
    "listener.name.certificates.ssl.client.auth": "required",
    "listener.name.controller.ssl.client.auth": "required",
    "ssl.keystore.type": "PEM",
    "ssl.truststore.type": "PEM",
    "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
    "sasl.enabled.mechanisms": MECHANISM,
    f"listener.name.sasl_ssl.{MECHANISM.lower()}.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": f"User:{ADMIN};User:{BROKER}",
}


class Security:
    """The folder `secure` of a stack, and what brokers and clients are set by it."""

    def __init__(self, site: Site) -> None:
        self.folder = site.directory / "secure"
        self._site = site

    @property
    def ca_path(self) -> Path:
        """The certificate of the authority, which clients trust."""
        return self.folder / "ca.crt"

    def prepare(self) -> None:
        """Make what is missing: the authority, a certificate and a password for each user."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        names = (BROKER, *USERS)
        if not all(path.exists() for name in names for path in self.certificate(name)):
            self._certify(names)
        for user in USERS:
            write_atomically(self.password_path(user), self.password(user) + "\n")
            write_atomically(self.environment_path(user), self._environment(user))

    def password(self, user: str) -> str:
        """The password of a user."""
        return self._site.secret(f"kafka-{user}")

    def password_path(self, user: str) -> Path:
        """The file with the password of a user."""
        return self.folder / f"{user}.password"

    def environment_path(self, user: str) -> Path:
        """The file with the variables by which commands run as a user."""
        return self.folder / f"{user}.env"

    def certificate(self, name: str) -> tuple[Path, Path]:
        """The files with a user's certificate and its key."""
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def broker_settings(self) -> dict[str, str]:
        """What every broker and controller is set by."""
        return {
            **BROKER_SETTINGS,
            "ssl.keystore.location": str(self.folder / f"{BROKER}.pem"),
            "ssl.truststore.location": str(self.ca_path),
        }

    def common_settings(self) -> dict[str, str]:
        """What every client that logs in with a password is set by, whoever it is."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": MECHANISM,
            "ssl.ca.location": str(self.ca_path),
        }

    def password_settings(self, user: str) -> dict[str, str]:
        """What a client of this user is set by."""
        named = {"sasl.username": user, "sasl.password": self.password(user)}
        return {**self.common_settings(), **named}

    def certificate_settings(self, user: str) -> dict[str, str]:
        """What a client is set by that shows this user's certificate."""
        certificate, key = self.certificate(user)
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.ca_path),
            "ssl.certificate.location": str(certificate),
            "ssl.key.location": str(key),
        }

    def create_users(self, bootstrap_servers: str) -> None:
        """Tell the brokers every user's password, over the listener that takes certificates."""
        from confluent_kafka.admin import (
            AdminClient,
            ScramCredentialInfo,
            ScramMechanism,
            UserScramCredentialUpsertion,
        )

        admin = AdminClient(
            {
                **self.certificate_settings(ADMIN),
                "bootstrap.servers": bootstrap_servers,
                "log_level": 0,
            }
        )
        method = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
        answers = admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(user, method, self.password(user).encode())
                for user in USERS
            ]
        )
        for answer in answers.values():
            answer.result(30)

    def _environment(self, user: str) -> str:
        variables = {
            "PROCESSOR_KAFKA_SASL_USERNAME": user,
            "PROCESSOR_KAFKA_SASL_PASSWORD_FILE": str(self.password_path(user)),
        }
        return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())

    def _certify(self, names: tuple[str, ...]) -> None:
        """Make an authority and certificates; its own key is kept nowhere."""
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        authority = _named("processor local authority")
        root = _signed(_authority(), key, authority, by=key, issuer=authority)
        write_atomically(self.ca_path, _pem(root), mode=0o644)
        for name in names:
            mine = ec.generate_private_key(ec.SECP256R1())
            signed = _signed(_member(), mine, _named(name), by=key, issuer=authority)
            certificate_path, key_path = self.certificate(name)
            write_atomically(certificate_path, _pem(signed), mode=0o644)
            write_atomically(key_path, _key_pem(mine))
            if name == BROKER:
                write_atomically(self.folder / f"{BROKER}.pem", _key_pem(mine) + _pem(signed))


def _named(name: str) -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _authority() -> CertificateBuilder:
    from cryptography import x509

    return x509.CertificateBuilder().add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )


def _member() -> CertificateBuilder:
    """Begin a certificate for a server on this machine, or a client."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    here = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(here), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    )


def _signed(
    begun: CertificateBuilder,
    key: EllipticCurvePrivateKey,
    subject: Name,
    *,
    by: EllipticCurvePrivateKey,
    issuer: Name,
) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.now(UTC)
    return (
        begun.subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .sign(by, hashes.SHA256())
    )


def _pem(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
