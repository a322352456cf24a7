"""The parts that all commands share: where they print, how they refuse, and which run they mean.

Results go to stdout and errors to stderr, so that a pipe receives results only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from services.machine.gpus import state_folder
from services.machine.state import State
from trainer.jobs.environment import replace_unprintable

BAD_USE = 2

replace_unprintable(sys.stdout, sys.stderr)
console = Console(markup=False, emoji=False)  # texts of candidates and models are shown as they are
errors = Console(markup=False, emoji=False, stderr=True)

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        file_okay=False,
        help="Folder of the run.",
        show_default="~/.local/state/overnight; root: /var/lib/overnight",
    ),
]


def state_of(path: Path | None) -> State:
    """Return the state that a command means."""
    return State((path or state_folder(os.environ, Path.cwd())).resolve())


def print_error(message: str) -> None:
    """Print an error on stderr."""
    errors.print(Text.assemble(("overnight:", "bold red"), f" {message}"), soft_wrap=True)


def refuse(message: str) -> NoReturn:
    """Print an error and end the command."""
    print_error(message)
    raise typer.Exit(BAD_USE)
