"""The action at the end of a run: a named one that ends the cost of a rented machine, or the user's own command.

It is checked before anything starts, because at the end of a run nobody is there to see it fail while the machine costs
money. Whether an action ends the cost is the provider's matter; the page of the services has a table.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from researcher.errors import OvernightError
from trainer.jobs.environment import SHELL

SYSTEMD = Path("/run/systemd/system")  # exists if systemd runs this machine
_SUDO_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_POWER = {"poweroff", "shutdown", "halt"}


class EndActionRefused(OvernightError):
    """The action cannot work on this machine."""


@dataclass(frozen=True)
class EndAction:
    """A command, and the variables that the provider sets in its machines and that the command needs."""

    command: str
    variables: tuple[str, ...] = ()


ACTIONS = {
    "poweroff": EndAction("systemctl poweroff"),
    "runpod-stop": EndAction('runpodctl stop pod "$RUNPOD_POD_ID"', ("RUNPOD_POD_ID",)),
    "runpod-remove": EndAction('runpodctl remove pod "$RUNPOD_POD_ID"', ("RUNPOD_POD_ID",)),
    "vast-stop": EndAction(
        'vastai stop instance "$CONTAINER_ID" --api-key "$CONTAINER_API_KEY"', ("CONTAINER_ID", "CONTAINER_API_KEY")
    ),
}
HELP = f"Action on this machine once the run has ended: {', '.join(ACTIONS)}, or a shell command."


def checked(text: str, environment: Mapping[str, str], systemd: Path = SYSTEMD) -> str:
    """Return the shell command of an action. Raises EndActionRefused if it cannot work on this machine."""
    action = ACTIONS.get(text.strip(), EndAction(text))
    missing = [name for name in action.variables if not environment.get(name)]
    if missing:
        raise EndActionRefused(
            f"--then {text} needs {' and '.join(missing)}, which the provider sets in its machines",
            "start from a shell that has them (a login over ssh may not), or give another action",
        )
    words = _words(action.command, environment)
    if any(Path(word).name in _POWER for word in words) and not systemd.is_dir():
        raise EndActionRefused(
            f"--then {text} ends nothing here: this is a container, whose machine goes on and costs money",
            f"one of {', '.join(_of_this_cloud(environment)) or ', '.join(ACTIONS)}, or the provider's own command",
        )
    program = words[0]
    if program == "sudo" and len(words) > 1:
        if _run(["sudo", "-k", "-n", "true"], environment) != 0:
            raise EndActionRefused(f"--then {text} would ask for a password when nobody is there", "run it as root")
        program = words[1] if not words[1].startswith("-") else program
        environment = {**environment, "PATH": f"{environment.get('PATH', os.defpath)}:{_SUDO_PATH}"}
    if _run(["sh", "-c", 'command -v -- "$1"', "sh", program], environment) != 0:
        raise EndActionRefused(f"--then {text}: there is no program {program}", "install it, or correct the command")
    return action.command


def _words(command: str, environment: Mapping[str, str]) -> list[str]:
    """Return the words of a command without the variables that it sets. Raises EndActionRefused for no command."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    while words and "=" in words[0]:
        words.pop(0)
    if not words or _run(["sh", "-n", "-c", command], environment) != 0:
        raise EndActionRefused(f"--then {command!r} is no command that a shell can read", "correct its quotes")
    return words


def _of_this_cloud(environment: Mapping[str, str]) -> list[str]:
    return [
        name for name, action in ACTIONS.items() if action.variables and all(map(environment.get, action.variables))
    ]


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    try:
        return subprocess.run(
            command, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, check=False
        ).returncode
    except FileNotFoundError:
        return 127


def run_after(command: str, console: Console, shell: Mapping[str, str] = SHELL) -> int:
    """Run the action's command with the variables of the user's `shell`; print and return its exit code."""
    console.print(f"now: {command}", markup=False, highlight=False)
    code = subprocess.run(command, shell=True, env=dict(shell), check=False).returncode
    console.print(f"{command}: ended with {code}", markup=False, highlight=False)
    return code
