"""`python -m processor.probe PATH PORT…`: ask every worker of a pod; exit 0 if all are well.

A kubelet asks one port of a container, and `--processes N` serves N. Asked on the address that the
workers listen on (`worker.metrics_host`). It imports nothing heavy: it runs every few seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException

SECONDS_MAX = 4.0


def failing(path: str, ports: Sequence[int], host: str) -> list[str]:
    """Name the ports that do not answer 200, and what they answer."""
    told = []
    for port in ports:
        connection = HTTPConnection(host, port, timeout=SECONDS_MAX / len(ports))
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200:
                told.append(f"port {port}: {answer.status} {answer.read().decode().strip()}")
        except (OSError, HTTPException) as fault:
            told.append(f"port {port}: {fault}")
        finally:
            connection.close()
    return told


def main() -> None:
    """Ask, tell on stderr what fails, and exit."""
    path, *ports = sys.argv[1:]
    host = os.environ.get("PROCESSOR_WORKER_METRICS_HOST", "127.0.0.1")
    told = failing(path, [int(port) for port in ports], host)
    sys.stderr.write("".join(f"{line}\n" for line in told))
    sys.exit(bool(told))


if __name__ == "__main__":
    main()
