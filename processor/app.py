"""`App`: the handlers that a worker runs, by job type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from processor.engine.job import JobSpec
from processor.engine.ports import Sink, TransactionalSink
from processor.errors import ContractError, PermanentError, UsageError

Handler = TypeVar("Handler", bound=Callable[..., Any])
BATCH_MAX = 10_000
AnySink = Sink | TransactionalSink


class App:
    """A registry of handlers.

    >>> app = App()
    >>> @app.job("mail.send", timeout="30s")
    ... def send(payload: dict, ctx) -> None: ...
    >>> list(app.jobs)
    ['mail.send']
    """

    def __init__(self) -> None:
        self.jobs: dict[str, JobSpec] = {}

    def job(
        self,
        job_type: str,
        *,
        topic: str | None = None,
        timeout: float | str | None = None,
        permanent: Iterable[type[BaseException]] = (),
        sink: AnySink | Sequence[AnySink] | None = None,
        batch: int | None = None,
        linger: float | str | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register a handler: a function or coroutine of `(payload)` or `(payload, ctx)`.

        `topic`: the main topic, where the topic files do not say it. `timeout`: seconds, or "5m".
        `permanent`: exceptions for which repeating cannot help. `sink`: where the return value
        goes, one sink or several, in the order of their writes; default: with the ledger's row. A
        generator's values go there as a list. The payload's annotation decides what the handler is
        given: a dataclass (or pydantic model), else the decoded mapping.

        `batch`: the handler is given a list of up to so many payloads (and a list of contexts), in
        order, and returns None, or a list with a result or an exception for each of them. What it
        raises fails them all. `linger`: how long a batch waits to become full, seconds or "50ms".
        """
        if job_type in self.jobs:
            raise UsageError(f"job type `{job_type}` has two handlers")

        sinks = _sinks(job_type, sink)
        _check_batch(job_type, batch, linger)

        def register(handler: Handler) -> Handler:
            if batch is not None and _is_async(handler):
                raise UsageError(
                    f"the batch handler of `{job_type}` is a coroutine",
                    hint="define it with `def`; coroutines are run side by side without `batch`",
                )
            self.jobs[job_type] = JobSpec(
                job_type=job_type,
                topic=topic,
                call=_calling(job_type, handler),
                convert=_converting(job_type, handler, many=batch is not None),
                is_async=_is_async(handler),
                timeout_seconds=_seconds(job_type, timeout),
                permanent=tuple(permanent),
                simple=_simple(handler, many=batch is not None),
                sinks=sinks,
                batch_max=batch,
                linger_seconds=_seconds(job_type, linger, "linger") or 0.0,
            )
            return handler

        return register

    def include(self, other: App) -> None:
        """Take over all handlers of another app."""
        twice = sorted(self.jobs.keys() & other.jobs.keys())
        if twice:
            raise UsageError(f"job type `{twice[0]}` has two handlers")
        self.jobs.update(other.jobs)


def _calling(job_type: str, handler: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    parameters = _positional(handler)
    if not parameters:
        raise UsageError(
            f"the handler of `{job_type}` takes nothing", hint="define it as (payload, ctx)"
        )
    collected = _collecting(handler)
    if len(parameters) > 1 or _takes_many(handler):
        return collected
    return lambda payload, _: collected(payload)


def _positional(handler: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        each
        for each in inspect.signature(handler).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.VAR_POSITIONAL)
    ]


def _takes_many(handler: Callable[..., Any]) -> bool:
    return _positional(handler)[0].kind is inspect.Parameter.VAR_POSITIONAL


def _check_batch(job_type: str, batch: int | None, linger: float | str | None) -> None:
    if batch is not None and (isinstance(batch, bool) or not 1 <= batch <= BATCH_MAX):
        raise UsageError(f"the batch of `{job_type}` is {batch!r}; 1 to {BATCH_MAX} are allowed")
    if linger is not None and batch is None:
        raise UsageError(f"`{job_type}` has a linger and no batch", hint="say batch=… too")


def _simple(handler: Callable[..., Any], *, many: bool) -> Callable[[Any], Any] | None:
    """The handler itself, where it can be given the decoded record alone."""
    one = len(_positional(handler)) == 1 and not _takes_many(handler)
    if one and _wanted(handler, many=many) is None:
        return _collecting(handler)
    return None


def _is_async(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)


def _collecting(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Make a list of what a generator yields; any other handler stays what it is."""
    if inspect.isgeneratorfunction(handler):
        return lambda *given: list(handler(*given))
    if inspect.isasyncgenfunction(handler):

        async def collect(*given: Any) -> list[Any]:
            return [each async for each in handler(*given)]

        return collect
    return handler


def _sinks(job_type: str, given: AnySink | Sequence[AnySink] | None) -> tuple[AnySink, ...]:
    sinks = () if given is None else tuple(given) if isinstance(given, Sequence) else (given,)
    for each in sinks:
        if not hasattr(each, "write") and not isinstance(each, TransactionalSink):
            raise UsageError(
                f"`{each!r}` is no sink for `{job_type}`",
                hint="a sink has `write(effects)` or `write_in(transaction, effects)`",
            )
    return sinks


def _wanted(handler: Callable[..., Any], *, many: bool) -> type | None:
    """The class that a handler's first parameter asks for; None: the decoded mapping will do."""
    name = next(iter(inspect.signature(handler).parameters))
    try:
        wanted = get_type_hints(handler).get(name, Any)
    except NameError:
        return None  # An annotation for type checkers only.
    if many:  # Of `list[Mail]` it is the class of each.
        wanted = next(iter(get_args(wanted)), Any)
    if wanted in (Any, object) or not isinstance(wanted, type) or issubclass(wanted, Mapping):
        return None
    return wanted


def _converting(job_type: str, handler: Callable[..., Any], *, many: bool) -> Callable[[Any], Any]:
    """Make the step from the decoded mapping to what the handler's first parameter asks for."""
    wanted = _wanted(handler, many=many)
    if wanted is None:
        return lambda payload: payload
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(wanted)

    def convert(payload: Any) -> Any:
        try:
            return adapter.validate_python(payload)
        except ValidationError as fault:
            first = fault.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ContractError(
                f"the payload of `{job_type}` is no {wanted.__name__}: field `{place}`: "
                f"{first['msg']}"
            ) from None
        except PermanentError:
            raise
        except Exception as fault:  # noqa: BLE001 - the class is user code, and may raise anything.
            raise ContractError(
                f"the payload of `{job_type}` is no {wanted.__name__}: it raised"
                f" {type(fault).__name__}"
            ) from None

    return convert


def _seconds(job_type: str, timeout: float | str | None, what: str = "timeout") -> float | None:
    if timeout is None:
        return None
    from processor.settings import parse_duration

    try:
        seconds = parse_duration(timeout)
    except ValueError as fault:
        raise UsageError(f"the {what} {timeout!r} of `{job_type}` {fault}") from None
    if seconds <= 0:
        raise UsageError(f"the {what} of `{job_type}` must be longer than 0")
    return seconds
