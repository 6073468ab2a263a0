"""`python -m tests.chaos.effects`: effects once, on PostgreSQL that is hurt too.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from processor.stack import Stack
from tests.chaos import evidence
from tests.chaos.checker import Job, Verdict, judge, must_die
from tests.chaos.run import FULL, PARTITIONS, PROTOCOLS, SHORT, Plan, Run, say

TABLES = """
CREATE TABLE sequence (number bigserial PRIMARY KEY, key text NOT NULL, seq bigint NOT NULL);
CREATE TABLE counter (key text PRIMARY KEY, n bigint NOT NULL);
"""
PLANTS = ("no fence",)


class EffectsRun(Run):
    """A run whose ledger and effects are in PostgreSQL."""

    handlers = Path(__file__).with_name("effect_handlers.py")
    job_types = ("chaos.sink", "chaos.own")
    # Exactness is asked here, not speed: half of the jobs are a transaction each, and at the end
    # one worker is left.
    lag_seconds_max = 600.0

    def __init__(
        self,
        stack: Stack,
        folder: Path,
        protocol: str,
        seed: int,
        plan: Plan,
        *,
        restarts: int,
        plant: str | None = None,
    ) -> None:
        self._restarts = restarts
        self._plant = plant
        super().__init__(stack, folder, protocol, seed, plan)
        with self._connected() as connection:
            connection.execute(TABLES)  # type: ignore[arg-type]

    def settings(self) -> dict[str, dict[str, Any]]:
        return {"ledger": {"url": self.stack.postgres.url}}

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **({"CHAOS_PLANT": self._plant} if self._plant else {})}

    def hurts(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """The same as ever, and the database between."""
        more = [("restart the database", self.restart_database)] * self._restarts
        more += [("kill connections", self.kill_connections)] * (2 * self._restarts)
        self.random.shuffle(more)
        usual = list(super().hurts())
        every = max(1, len(usual) // len(more))
        for number, each in enumerate(usual):
            yield each
            if number % every == 0 and more:
                yield more.pop()
        yield from more

    def restart_database(self) -> None:
        """Do as `pg_ctl restart -m immediate`: no server process ends properly."""
        os.kill(self.stack.postgres.pids[0], signal.SIGQUIT)
        while self.stack.postgres.running:
            time.sleep(0.02)
        self.faults["database restart"] += 1
        self.stack.postgres.start()

    def kill_connections(self) -> None:
        with self._connected() as connection:
            killed = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'processor'"
            ).fetchone()
        self.faults["connection killed"] += killed[0] if killed else 0

    def judged(self) -> Verdict:
        with self._connected() as connection:
            effects = connection.execute("SELECT key, seq FROM sequence ORDER BY number").fetchall()
        return judge(
            accepted=self.accepted,
            unanswered=self.unanswered,
            effects=[Job(*row) for row in effects],
            letters=evidence.letters(
                self.stack.kafka.bootstrap_servers, f"{self.topic}.dlt", PARTITIONS
            ),
            dies=lambda job: must_die(self.seed, job),
        )

    def wrong_counters(self) -> list[str]:
        """Keys whose counter is not the length of what their jobs should have left."""
        wanted: dict[str, int] = {}
        for job in self.accepted:
            wanted.setdefault(job.key, 0)
            wanted[job.key] += not must_die(self.seed, job)
        with self._connected() as connection:
            found = dict(connection.execute("SELECT key, n FROM counter").fetchall())
        unsure = {job.key for job in self.unanswered}
        return sorted(
            key for key, n in wanted.items() if found.get(key, 0) != n and key not in unsure
        )

    def _connected(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.stack.postgres.url, autocommit=True, application_name="judge")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", default=os.environ.get("SHORT") == "1")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--plant", choices=PLANTS, help="a defect that must be found")
    options = parser.parse_args()
    plan = replace(SHORT if options.short else FULL, broker_kills=0, rolling=False)
    if options.jobs:
        plan = replace(plan, jobs=options.jobs)
    names = list(PROTOCOLS)
    protocol = names[options.seed % len(names)]
    folder = Path(tempfile.mkdtemp(prefix="processor-chaos-"))
    stack = Stack(folder / "stack", ["kafka", "registry", "postgres"])
    began = time.monotonic()
    try:
        stack.start("kafka", "registry", "postgres")
        say(f"{protocol}, seed {options.seed}, in {folder}")
        run = EffectsRun(stack, folder / "run", protocol, options.seed, plan,
                         restarts=1 if options.short else 4, plant=options.plant)  # fmt: skip
        try:
            told = run.go()
            wrong = run.wrong_counters()
        finally:
            run.end()
    finally:
        stack.stop(kill=True)
    good = told.good and not wrong
    total = {
        "submitted": told.submitted,
        "lost": len(told.verdict.lost),
        "order_violations": len(told.verdict.order_violations),
        "effects_twice": len(told.verdict.effects_twice),
        "wrong_counters": len(wrong),
        "dead": told.verdict.dead,
        "false_dead": len(told.verdict.false_dead),
        "alive": len(told.verdict.alive),
        "faults": dict(told.faults),
        "lag_zero_seconds": told.lag_zero_seconds,
        "protocol": protocol,
        "planted": options.plant,
        "seed": options.seed,
        "good": good,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(total))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
