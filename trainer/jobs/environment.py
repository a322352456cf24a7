"""The environment of every process that Overnight starts. It is built from the table below, and never inherited.

A variable that is not in `INHERITED` belongs to the user's other programs, and no process of ours gets it: GIT_DIR of a
hook, PYTHONPATH, PIP_TARGET, a locale. Settings of Overnight itself are passed by name, with those that the starter
sets. Pip's own settings are read through pip, because they may be in files; only `PIP_OPTIONS` are passed on.

The module needs only the standard library, because `scripts/setup` runs it as a program before any package exists.
"""

from __future__ import annotations

import ast
import fnmatch
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
SHELL: Mapping[str, str] = MappingProxyType(dict(os.environ))  # for commands of the user
_SITE_PACKAGES = ("site-packages", "dist-packages")
_PIP_LIMIT_S = 60


class Program(Flag):
    """The programs that Overnight starts. PYTHON stands for our own processes."""

    PYTHON = auto()
    GIT = auto()
    PIP = auto()
    REDIS = auto()
    DOCKER = auto()
    RCLONE = auto()


_EVERY = Program.PYTHON | Program.GIT | Program.PIP | Program.REDIS | Program.DOCKER | Program.RCLONE
_NETWORK = Program.PYTHON | Program.PIP | Program.DOCKER | Program.RCLONE


@dataclass(frozen=True)
class Inherited:
    """A row of the table: variables of the user that some programs get, and the reason.

    `names` are separated by spaces. One that ends in * stands for all names that begin like it.
    """

    names: str
    readers: Program
    reason: str

    def values(self, shell: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of `shell` that this row names."""
        return {name: shell[name] for pattern in self.names.split() for name in fnmatch.filter(shell, pattern)}


INHERITED = (
    Inherited("PATH HOME TMPDIR", _EVERY, "programs, the user's folder, temporary files"),
    Inherited("LD_LIBRARY_PATH", _EVERY, "libraries of a Python or a driver that is not the system's"),
    Inherited("USER LOGNAME", Program.PYTHON | Program.DOCKER, "the name of a user whom the system does not know"),
    Inherited("TZ", Program.PYTHON, "the times in logs"),
    Inherited("PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED", Program.PYTHON, "set in the images"),
    Inherited("OMP_NUM_THREADS", Program.PYTHON, "the number of threads with which the trainer scores"),
    Inherited("CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER NVIDIA_*", Program.PYTHON, "the GPUs of a trainer"),
    Inherited(
        "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy",
        _NETWORK,
        "the proxy of endpoints and downloads",
    ),
    Inherited("SSL_CERT_FILE SSL_CERT_DIR", _NETWORK, "the authorities that TLS trusts"),
    Inherited("REQUESTS_CA_BUNDLE", Program.PIP | Program.DOCKER, "the authorities that TLS trusts, for these two"),
    Inherited("XDG_CACHE_HOME", Program.PIP, "the folder of the cache"),
    Inherited("DOCKER_* COMPOSE_* BUILDKIT_* BUILDX_*", Program.DOCKER, "the engine and its commands"),
    Inherited("SSH_AUTH_SOCK XDG_RUNTIME_DIR", Program.DOCKER, "an engine behind ssh, or without root"),
    Inherited(
        "XDG_CONFIG_HOME DBUS_SESSION_BUS_ADDRESS GNUPGHOME", Program.DOCKER, "passwords of the user for registries"
    ),
    Inherited("RCLONE_*", Program.RCLONE, "remotes and settings of rclone"),
    Inherited("TERM COLUMNS NO_COLOR", Program.DOCKER, "how progress is shown"),
)

# Where pip finds packages. Every other setting of pip, such as `user`, `target` or `constraint`, stays with the user.
PIP_OPTIONS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "proxy",
    "cert",
    "client-cert",
    "keyring-provider",
    "timeout",
    "retries",
    "cache-dir",
    "no-cache-dir",
    "use-feature",
    "use-deprecated",
)


class PipSettingsUnreadable(RuntimeError):
    """Pip cannot read its own settings. The message is pip's."""


def environment(
    program: Program, more: Mapping[str, str] | None = None, *, shell: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a program: the rows of the table, then `more`. `shell` is this process's by default.

    Our own Python processes import from the folder of this package first.
    """
    here = os.environ if shell is None else shell
    found: dict[str, str] = {}
    for row in INHERITED:
        found |= row.values(here) if program in row.readers else {}
    if program is Program.PYTHON and ROOT.name not in _SITE_PACKAGES:
        found["PYTHONPATH"] = str(ROOT)
    return found | dict(more or {})


def drop_variables(prefix: str) -> None:
    """Remove variables from this process that a library would read or pass on. `SHELL` keeps them."""
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command line of one of our modules: UTF-8, nothing from the current folder or the user's packages."""
    return [sys.executable, "-P", "-s", "-X", "utf8", "-m", module, *arguments]


def pip_command(*arguments: str) -> list[str]:
    """Return the command line of pip, which imports nothing from the current folder or the user's packages."""
    return [sys.executable, "-I", "-m", "pip", *arguments]


def pip_environment(command: str) -> dict[str, str]:
    """Return the environment for a command of pip, such as `install`.

    It holds the user's settings that say where packages are. Raise PipSettingsUnreadable.
    """
    own = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "XDG_CONFIG_"))}
    asked = subprocess.run(
        pip_command("config", "list", "--disable-pip-version-check"),
        env=environment(Program.PIP, own),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_PIP_LIMIT_S,
        check=False,
    )
    if asked.returncode:
        raise PipSettingsUnreadable(" ".join(asked.stderr.split()) or "pip gave no reason")
    settings = _pip_settings(asked.stdout, command)
    return environment(Program.PIP, settings | {"PIP_CONFIG_FILE": os.devnull})


def _pip_settings(listing: str, command: str) -> dict[str, str]:
    """Read lines such as `global.index-url='https://...'`. A command's own section outweighs `global`, and the
    environment both."""
    found: dict[str, dict[str, str]] = {section: {} for section in ("global", command, ":env:")}
    for line in listing.splitlines():
        key, _, quoted = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in found and option in PIP_OPTIONS:
            found[section][f"PIP_{option.upper().replace('-', '_')}"] = str(ast.literal_eval(quoted))
    return {name: value for section in found.values() for name, value in section.items() if value}


def replace_unprintable(*streams: TextIO) -> None:
    """Make streams show `?` for a character that their encoding lacks, where they would raise an error."""
    for stream in streams:
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="replace")


def main() -> int:
    """Print the environment of `pip COMMAND` for `env`, each assignment ended by a zero byte; return the exit code."""
    try:
        built = pip_environment(sys.argv[1])
    except PipSettingsUnreadable as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in built.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
