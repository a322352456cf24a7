"""A file for a bug report: the findings, versions, and the settings in force, without secrets and without the user's
name.

It replaces values whose name or form suggests a secret, passwords in addresses, and the home folder. Everything that is
written passes this filter, also text that checks quote from other programs.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from researcher.errors import OvernightError
from services.doctor.environment import Environment, Mode
from services.doctor.finding import Finding
from services.machine.installation import form

HIDDEN = "[left out]"
_SECRET_NAME = re.compile(
    r"(?P<name>\w*(?:PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH)\w*)(?P<is>\s*[=:]\s*)(?P<value>\S+)", re.IGNORECASE
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]*@")
_LOOKS_SECRET = re.compile(r"\b(?:sk|hf|ghp|gho|glpat|xox[abp]|nvapi|AKIA)[-_]?[A-Za-z0-9_-]{16,}")
_PACKAGES = ("overnight", "docker", "redis", "rq", "torch", "optuna", "httpx")


class ReportNotWritten(OvernightError):
    """The file for the report cannot be written."""


def write_report(path: Path, mode: Mode, findings: Iterable[Finding], facts: Environment) -> None:
    """Write the report; an existing file is replaced. Raises ReportNotWritten."""
    lines = [f"overnight doctor, mode {mode}, {facts.now:%Y-%m-%d %H:%M} UTC", ""]
    lines += [finding.line() for finding in findings]
    lines += ["", *_versions(facts), "", *_settings(mode, facts)]
    try:
        path.write_text(without_secrets("\n".join(lines), facts.environment.get("HOME", "")) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReportNotWritten(f"cannot write {path}: {error.strerror}", "name another file: --report FILE") from error


def without_secrets(text: str, home: str) -> str:
    """Return the text with secret and personal parts replaced."""
    text = _SECRET_NAME.sub(rf"\g<name>\g<is>{HIDDEN}", text)
    text = _LOOKS_SECRET.sub(HIDDEN, _IN_ADDRESS.sub(f"{HIDDEN}@", text))
    return text.replace(home, "~") if home.strip("/") else text


def _versions(facts: Environment) -> Iterator[str]:
    yield f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        yield platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        yield "no os-release"
    yield f"Python {platform.python_version()}"
    yield f"installed as: {form(facts.root)}"
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} is not installed"


def _settings(mode: Mode, facts: Environment) -> Iterator[str]:
    try:
        files = () if mode is Mode.LOCAL else facts.settings_files(mode)
    except OSError as error:
        yield str(error)
        return
    for entries in files:
        yield f"{entries.file}:"
        yield from (f"  {entry.name}={entry.value}" for entry in entries.entries)
