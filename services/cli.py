"""The `overnight` command: a thin layer over the read model, the request queue and local mode.

What a user can do to a run is here. The commands that start something are in `run_commands`, which is imported when one
of them is called, because it imports much more than `overnight status` needs. An error is one sentence with the next
step on stderr, and exit code 2.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import redis
import typer
from typer.core import TyperCommand, TyperGroup

from researcher.errors import OvernightError, ResearcherError
from researcher.files import read_text, write_whole
from researcher.journal.records import CONFIRM
from services.machine.installation import version
from services.views import show
from services.views.client import ask_and_wait
from services.views.follow import follow_run
from services.views.runs import show_runs
from services.views.terminal import BAD_USE, StateOption, console, print_error, refuse, state_of
from trainer.jobs import BusError, ProfileError

LATER = "services.run_commands"
LATER_NAMES = ("run", "init", "prepare", "pull", "trial", "doctor", "gpu-check", "dashboard", "backup", "restore")


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


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)

LOOK, STEER = "Look", "Steer"


def main() -> None:
    """Run the command line; known errors become one sentence and exit code 2."""
    try:
        app(prog_name="overnight")
    except (OvernightError, ResearcherError, ProfileError, BusError) as error:
        print_error(str(error))
        sys.exit(BAD_USE)
    except redis.RedisError as error:
        print_error(f"Redis does not answer: {error}")
        sys.exit(BAD_USE)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"overnight {version()}")
        raise typer.Exit


@app.callback(
    epilog="In the evening: overnight run --until 07:00. In the morning: overnight status, overnight log, "
    "overnight export. Each command explains itself: overnight COMMAND --help"
)
def overnight(
    show_version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Start a run, show it, steer it, and take its results."""


@app.command(
    rich_help_panel=LOOK, epilog="Examples: overnight status --verbose · overnight status --json | jq .headline"
)
def status(
    state: StateOption = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show all figures, each with what it is compared with.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON, for scripts.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json and exit.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show the run until its end; Ctrl-C stops nothing.")] = False,
) -> None:
    """Show the state of the run."""
    if schema:
        from researcher.report.document import schema as json_schema  # noqa: PLC0415

        print(json.dumps(json_schema(), indent=1))
    elif follow:
        raise typer.Exit(follow_run(state_of(state), console))
    else:
        show.show_status(state_of(state), console, as_json=as_json, verbose=verbose)


@app.command(rich_help_panel=LOOK, epilog="Examples: overnight log 12 · overnight log --tsv > all.tsv")
def log(
    number: Annotated[int | None, typer.Argument(metavar="ID", help="An experiment's number.")] = None,
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every column as JSON.")] = False,
    as_tsv: Annotated[bool, typer.Option("--tsv", help="Print every column, separated by tabs.")] = False,
) -> None:
    """Show all experiments, or everything about one: hypothesis, decision, trials, the stored log."""
    if as_json and as_tsv:
        refuse("--json and --tsv exclude each other")
    form = show.Form.JSON if as_json else show.Form.TSV if as_tsv else show.Form.TABLE
    show.show_log(state_of(state), number, console, form)


@app.command(rich_help_panel=LOOK, epilog="Example: overnight runs --json | jq '.[].tag'")
def runs(
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every run as JSON.")] = False,
) -> None:
    """List the runs of the state folder: the earlier ones, which --state shows or continues, and the present one."""
    show_runs(state_of(state), console, as_json=as_json)


@app.command(rich_help_panel=LOOK, epilog="Example: overnight diff 12")
def diff(number: Annotated[int, typer.Argument(metavar="ID")], state: StateOption = None) -> None:
    """Show the change of an experiment."""
    show.show_diff(state_of(state), number, console)


@app.command(rich_help_panel=LOOK, epilog="Example: overnight best --source > train.py")
def best(
    state: StateOption = None,
    source: Annotated[bool, typer.Option("--source", help="Print only its train.py.")] = False,
) -> None:
    """Show the best version so far: its score, whether it is confirmed, its diff against the baseline."""
    show.show_best(state_of(state), console, source=source)


@app.command(rich_help_panel=LOOK, epilog="Example: overnight export --to results")
def export(
    to: Annotated[Path, typer.Option(file_okay=False, help="Folder for the files.")] = Path("overnight-export"),
    state: StateOption = None,
) -> None:
    """Write results.tsv and .json, proposers.tsv, the pictures, the best train.py and subject.bundle into a folder."""
    show.export(state_of(state), to, console)


@app.command(rich_help_panel=LOOK, epilog="Example: overnight report --to run.html")
def report(
    to: Annotated[Path, typer.Option(dir_okay=False, help="The file to write.")] = Path("overnight-report.html"),
    state: StateOption = None,
) -> None:
    """Write the run into one HTML file to send to others, which needs no network and no other file."""
    from services.dashboard.file_report import report_of  # noqa: PLC0415 - imports Optuna and the templates

    folder = state_of(state)
    folder.require_run()
    write_whole(to, report_of(folder).encode())
    console.print(f"written to {to.resolve()}", soft_wrap=True)


@app.command(rich_help_panel=STEER, epilog='Example: overnight idea "try a wider MLP"')
def idea(text: str, state: StateOption = None) -> None:
    """Send an idea to the LLM, which turns it into code in its next proposal."""
    _ask(state, "idea", text)


@app.command(
    rich_help_panel=STEER, epilog="Example: overnight best --source > my.py, edit it, then overnight submit my.py"
)
def submit(file: Path, state: StateOption = None) -> None:
    """Put a train.py of your own into the run; the next experiment runs it as it is."""
    try:
        source = read_text(file)
    except OSError as error:
        refuse(f"cannot read {file} as text: {error}")
    name = file.name.replace("\n", " ")  # the first line is the name
    _ask(state, "submit", f"{name}\n{source}")


@app.command(rich_help_panel=STEER)
def confirm(state: StateOption = None) -> None:
    """Measure the best version so far with fresh seeds now, against the last confirmed one."""
    _ask(state, CONFIRM)


@app.command(rich_help_panel=STEER)
def pause(state: StateOption = None) -> None:
    """Pause the run after the running trial."""
    _ask(state, "pause")


@app.command(rich_help_panel=STEER)
def resume(state: StateOption = None) -> None:
    """Continue the run after a pause."""
    _ask(state, "resume")


@app.command(rich_help_panel=STEER)
def stop(state: StateOption = None) -> None:
    """Stop the run cleanly; `run` continues it later."""
    _ask(state, "stop")


def _ask(state: Path | None, kind: str, body: str = "") -> None:
    console.print(ask_and_wait(state_of(state), kind, body))


if __name__ == "__main__":
    main()
