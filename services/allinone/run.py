"""Restores a run whose disk was lost from its backup, and becomes `overnight run` with the container's settings.

If the place of backups cannot be read, the process ends with an error and the supervisor tries again, because another
run would cost more than the wait.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from researcher.config.settings import TABLE
from researcher.errors import OvernightError, ResearcherError
from researcher.journal.database import holds_run
from researcher.repository.backup import BEGINNING, backups_at
from researcher.repository.backup_place import checked_place, place_of
from services.local import ASKED_BY_OPTION
from services.machine.backup import restore_run
from services.machine.gpus import AUTO, state_folder
from services.machine.state import State
from services.stack.end_action import ACTIONS
from services.views.terminal import console
from trainer.jobs.environment import SHELL, python_command

logger = logging.getLogger("overnight")

END_ACTION = "THEN"
FAILED = 1
# What the end actions read in the machines of a provider.
RUN_VARIABLES = (END_ACTION, *sorted({name for action in ACTIONS.values() for name in action.variables}))
OPTIONS = {key: f"--{key.lower().replace('_', '-')}" for key in ASKED_BY_OPTION} | {
    "PROFILE": "--profile",
    "BUDGET": "--budget",
    "SUBJECT_DIR": "--subject",
    END_ACTION: "--then",
}


def main() -> int:
    """Become `overnight run`; return the exit code if that is impossible."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    state = State(state_folder(SHELL, Path.cwd()))
    try:
        restore_lost_run(state, SHELL)
    except (OvernightError, ResearcherError, OSError) as error:
        logger.error("%s", error)
        return FAILED
    return _become(python_command("services.cli", "run", *run_options(SHELL)))


def _become(arguments: list[str]) -> NoReturn:
    os.execve(sys.executable, arguments, dict(SHELL))  # `start` has built it


def run_settings(shell: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in `shell`, without empty ones."""
    return {key: shell[key] for key in TABLE if shell.get(key)}


def run_options(shell: Mapping[str, str]) -> list[str]:
    """Return the options of `overnight run` for the settings that it takes as options only."""
    given = {key: shell[key] for key in OPTIONS if shell.get(key)}
    if given.get("PROFILE") == AUTO:
        del given["PROFILE"]
    return [word for key, value in given.items() for word in (OPTIONS[key], value)]


def restore_lost_run(state: State, shell: Mapping[str, str]) -> None:
    """Restore the run from the place that BACKUP names, if the state holds none and the place holds one: that of TAG,
    if it is set. Raises BackupError if the place cannot be read or holds several."""
    source = shell.get("BACKUP")
    if not source or holds_run(state.journal):
        return
    place, beginning = place_of(checked_place(source)), f"{BEGINNING}{shell.get('TAG') or ''}"
    found = [name for name in backups_at(place, source) if name.startswith(beginning)]
    if found:
        restore_run(state, source, found[0] if len(found) == 1 else None, None, console)


if __name__ == "__main__":
    raise SystemExit(main())
