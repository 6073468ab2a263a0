"""What a handler's payload class does to a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from processor.app import App
from processor.engine.job import JobSpec
from processor.errors import ContractError, Reject, Retry
from processor.testing import MemoryLedger, MemorySink
from tests.engine.bench import LETTERS, Bench
from tests.engine.test_coroutines import member_of, until

HOSTS = {"example.com": 1}


@dataclass
class Mail:
    to: str

    def __post_init__(self) -> None:
        self.host = HOSTS[self.to.split("@")[1]]


@dataclass
class Picky:
    later: bool

    def __post_init__(self) -> None:
        raise Retry("later") if self.later else Reject("never")


def converting(wanted: type, **how: Any) -> Callable[[Any], Any]:
    app = App()
    kind: Any = list[wanted] if how else wanted  # type: ignore[valid-type]

    def handle(payload: Any) -> None: ...

    handle.__annotations__["payload"] = kind
    app.job("mail.send", **how)(handle)
    return app.jobs["mail.send"].convert


@pytest.mark.parametrize("how", [{}, {"batch": 10}])
@pytest.mark.parametrize(("to", "raised"), [("ada", "IndexError"), ("ada@evil", "KeyError")])
def test_whatever_a_payload_class_raises_is_a_contract_fault_that_tells_no_value(
    how: dict[str, Any], to: str, raised: str
) -> None:
    with pytest.raises(ContractError) as caught:
        converting(Mail, **how)({"to": to})

    assert caught.value.message == f"the payload of `mail.send` is no Mail: it raised {raised}"
    assert caught.value.__cause__ is None


def test_payload_class_may_reject_its_job_and_cannot_ask_for_another_attempt() -> None:
    with pytest.raises(Reject, match="never"):
        converting(Picky)({"later": False})
    with pytest.raises(ContractError, match="it raised Retry"):
        converting(Picky)({"later": True})


class Fragile(Bench):
    """Job number 1 is no mail."""

    def _jobs(self) -> dict[str, JobSpec]:
        convert = converting(Mail)

        def checked(n: int) -> int:
            convert({"to": "ada" if n == 1 else "ada@example.com"})
            return n

        return {"count": replace(super()._jobs()["count"], convert=checked, simple=None)}


@pytest.mark.parametrize("way", ["one by one", "batch", "coroutine"])
def test_job_whose_payload_class_raises_is_dead_and_the_worker_goes_on(way: str) -> None:
    bench = Fragile(MemoryLedger(), MemorySink(), list)
    bench.is_async = way == "coroutine"
    bench.batch_max = 2 if way == "batch" else None
    for n in range(3):
        bench.submit(n, f"k{n}")
    member = member_of(bench)

    until(member, lambda: bench.committed() == 3)

    assert member.telemetry.outcomes == {"done": 2, "dead": 1}
    assert [hop.error_class for hop in bench.hops(LETTERS)] == ["ContractError"]
