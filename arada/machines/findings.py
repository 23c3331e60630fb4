"""Findings about a machine, as lines for people and as objects for scripts."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# "wrong" makes results false or a run fail; "note" costs time or leaves something out.
STATES = ("ok", "note", "wrong")


class Finding(NamedTuple):
    """One finding: its subject, its state, and the remedy."""

    subject: str
    state: str
    text: str
    remedy: str = ""
    # The numbers in `text`, in the units of their names.
    values: Mapping[str, Any] = {}

    def line(self) -> str:
        """For people."""
        return f"{self.state:<6}{self.subject:<20}{self.text}{f'; {self.remedy}' if self.remedy else ''}"

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return self._asdict() | {"values": dict(self.values)}


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if anything is wrong."""
    return int(any(finding.state == "wrong" for finding in findings))


def clock(seconds: float) -> str:
    """A duration in a readable unit, to three digits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
