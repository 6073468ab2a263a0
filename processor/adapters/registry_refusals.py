"""What a registry's refusal means for a record in hand: its job dies, or the worker waits.

Rule 1: a job dies only where the registry itself says that the schema id is bad (404xx, 422xx), or
denies this one id (403xx) and no other. All else that is answered, by a proxy, a login page or a
registry in trouble, is an outage: a valid job waits.
Rule 2: whoever may write to a topic may name an id that the worker has no right to, for ever. So a
denial counts against the id where the registry still answers for one that it answered for before;
and where there is none such, once nothing but denials came for `DENIED_SECONDS_MAX`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from processor.errors import ContractError, ProcessorError, RegistryUnavailable

_T = TypeVar("_T")
DENIED_SECONDS_MAX = 600.0
DENIED = range(40300, 40400)  # It knows who we are, and we have no right to this one thing.
_OF_THE_ID = {404: range(40401, 40500), 422: range(42200, 42300)}


class Refused(ProcessorError):
    """The registry, or something before it, will not do what it was asked."""

    def __init__(self, message: str, status: int, code: object, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.of_the_id = code in _OF_THE_ID.get(status, ())
        self.denied = status == 403 and code in DENIED


class RecordCalls:
    """One kind of call that records' schema ids ask for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answered: int | None = None  # The id that something was last answered for.
        self._denied_since: float | None = None

    def ask(self, call: Callable[[int], _T], schema_id: int, *, forget: Callable[[], object]) -> _T:
        """Call for an id; raise only ContractError or RegistryUnavailable.

        `forget` drops what is cached of earlier answers.
        """
        try:
            try:
                return self._ask(call, schema_id)
            except Refused as fault:
                if not fault.denied or not self._answers_for_another(call, forget):
                    raise
                return self._denied_alone(call, schema_id)
        except (ContractError, RegistryUnavailable):
            raise
        except ProcessorError as fault:
            if isinstance(fault, Refused) and (fault.of_the_id or self._denied_too_long(fault)):
                raise ContractError(fault.message) from None
            raise RegistryUnavailable(fault.message, hint=fault.hint) from None

    def _ask(self, call: Callable[[int], _T], schema_id: int) -> _T:
        answer = call(schema_id)
        if answer:  # A registry that shows only what we have a right to may answer with nothing.
            self._answered, self._denied_since = schema_id, None
        return answer

    def _answers_for_another(
        self, call: Callable[[int], object], forget: Callable[[], object]
    ) -> bool:
        known = self._answered
        if known is None:
            return False
        forget()
        try:
            found = call(known)
        except ContractError:
            found = None
        if not found:
            self._answered = None  # It was deleted, and tells nothing any more.
        return bool(found)

    def _denied_alone(self, call: Callable[[int], _T], schema_id: int) -> _T:
        try:
            return self._ask(call, schema_id)  # The rights may have come back between the two.
        except Refused as fault:
            if fault.denied:
                raise ContractError(fault.message) from None
            raise

    def _denied_too_long(self, fault: Refused) -> bool:
        if not fault.denied or self._answered is not None:
            return False
        now = self._clock()
        self._denied_since = now if self._denied_since is None else self._denied_since
        return now - self._denied_since >= DENIED_SECONDS_MAX
