"""The result of a check as one line: severity, name, the found and the wanted value, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.text import Text


class Severity(StrEnum):
    """`warn`: a run can start nevertheless. `skip`: the check was impossible or needless."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. A finding that needs a fix has a `fix`."""

    name: str
    severity: Severity
    found: str
    wanted: str = ""
    fix: str = ""

    def line(self) -> str:
        """Return the finding as one line, also if its texts contain line ends."""
        text = f"{self.severity:<4} {self.name:<8} {self.found}"
        text += f" (wanted {self.wanted})" if self.wanted else ""
        text += f" -> {self.fix}" if self.fix else ""
        return text[:5] + " ".join(text[5:].splitlines())


def ok(name: str, found: str, wanted: str = "") -> Finding:
    """The requirement is met."""
    return Finding(name, Severity.OK, found, wanted)


def skip(name: str, why: str) -> Finding:
    """The check did not run."""
    return Finding(name, Severity.SKIP, why)


def warn(name: str, found: str, fix: str) -> Finding:
    """A run can start nevertheless."""
    return Finding(name, Severity.WARN, found, fix=fix)


def fail(name: str, found: str, fix: str, wanted: str = "") -> Finding:
    """The fault must be fixed before a run starts."""
    return Finding(name, Severity.FAIL, found, wanted, fix)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 1 if any check failed, else 0."""
    return int(any(finding.severity is Severity.FAIL for finding in findings))


_COLOURS = {Severity.OK: "green", Severity.WARN: "yellow", Severity.FAIL: "bold red", Severity.SKIP: "dim"}


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """Print one line for each finding, never wrapped, so that the user can copy the command at its end."""
    for finding in findings:
        line = Text(finding.line())
        line.stylize(_COLOURS[finding.severity], 0, 4)
        console.print(line, soft_wrap=True)
