"""The parts that all commands of `overnight` share: where they print, how they refuse, and which run they mean.

Results go to stdout and errors to stderr, so that a pipe receives results only. The commands that start something are
loaded when they are called, because they import a hundred times more than `overnight status` needs.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from services.machine.gpus import state_folder
from services.machine.state import State

BAD_USE = 2
LATER = "services.run_commands"
LATER_NAMES = ("run", "init", "prepare", "pull", "trial", "doctor")

console = Console(markup=False)  # texts of candidates and models are shown as they are
errors = Console(markup=False, stderr=True)

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state", help="Folder of the run.", show_default="~/.local/state/overnight; root: /var/lib/overnight"
    ),
]


def state_of(path: Path | None) -> State:
    """Return the state that a command means."""
    return State((path or state_folder(os.environ, Path.cwd())).resolve())


def print_error(words: str) -> None:
    """Print an error on stderr."""
    errors.print(Text.assemble(("overnight:", "bold red"), f" {words}"), soft_wrap=True)


def refuse(message: str) -> NoReturn:
    """Print an error and end the command."""
    print_error(message)
    raise typer.Exit(BAD_USE)


class Commands(TyperGroup):
    """The commands of `overnight`. Those in `LATER_NAMES` are imported when they are called or listed."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all commands, those that start something first."""
        return [*LATER_NAMES, *self.commands]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override]
        """Return a command by its name."""
        commands = self.commands
        if cmd_name in LATER_NAMES:
            commands = typer.main.get_group(import_module(LATER).app).commands
        return commands.get(cmd_name)  # type: ignore[return-value]
