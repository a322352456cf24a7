"""What a check found, as one line: verdict, name, what is there, what is wanted, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.text import Text


class Severity(StrEnum):
    """`warn`: a run starts all the same. `skip`: it could not or need not be looked at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. What needs fixing has a `fix`."""

    name: str
    verdict: Severity
    found: str
    wanted: str = ""
    fix: str = ""

    def line(self) -> str:
        """All of it, in one line whatever the texts hold."""
        text = f"{self.verdict:<4} {self.name:<8} {self.found}"
        text += f" (wanted {self.wanted})" if self.wanted else ""
        text += f" -> {self.fix}" if self.fix else ""
        return text[:5] + " ".join(text[5:].splitlines())


def ok(name: str, found: str, wanted: str = "") -> Finding:
    """It is as it should be."""
    return Finding(name, Severity.OK, found, wanted)


def skip(name: str, why: str) -> Finding:
    """Not looked at."""
    return Finding(name, Severity.SKIP, why)


def warn(name: str, found: str, fix: str, wanted: str = "") -> Finding:
    """A run starts all the same."""
    return Finding(name, Severity.WARN, found, wanted, fix)


def fail(name: str, found: str, fix: str, wanted: str = "") -> Finding:
    """Nothing should be started before this is fixed."""
    return Finding(name, Severity.FAIL, found, wanted, fix)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if anything failed."""
    return int(any(finding.verdict is Severity.FAIL for finding in findings))


_COLOURS = {Severity.OK: "green", Severity.WARN: "yellow", Severity.FAIL: "bold red", Severity.SKIP: "dim"}


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """One line each, never wrapped, so that the command at its end can be copied."""
    for finding in findings:
        line = Text(finding.line())
        line.stylize(_COLOURS[finding.verdict], 0, 4)
        console.print(line, soft_wrap=True)
