"""A rule of a deployment, and a finding: a place where it is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold. An error loses jobs, repeats or stops them; a warning might, or costs.

    `id` stays as it is once published: pipelines ignore findings by it. `finds` completes "finds",
    `why` is what comes of it, `mend` the command or the change that helps.
    """

    id: str
    severity: Severity
    finds: str
    why: str
    mend: str

    def broken(self, subject: str, what: str, *, mend: str | None = None) -> Finding:
        """Find it broken at a subject: `what` tells the values found and expected."""
        return Finding(self, subject, what, self.mend if mend is None else mend)


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where a rule is broken, and what mends this one."""

    rule: Rule
    subject: str
    what: str
    mend: str

    def row(self) -> dict[str, Any]:
        """For machines."""
        return {
            "id": self.rule.id,
            "severity": self.rule.severity,
            "subject": self.subject,
            "what": self.what,
            "why": self.rule.why,
            "mend": self.mend,
        }
