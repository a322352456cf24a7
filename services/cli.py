"""The `overnight` command: a thin layer over the read model, the request queue and local mode.

Everything that a user can do to a run is here. An error is one sentence with the next step, and exit code 2.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import redis
import typer
from rich.console import Console
from rich.text import Text

from researcher.config.setting import EndpointModelForm
from researcher.config.settings import TABLE
from researcher.decision.rules import Rule
from researcher.errors import OvernightError, ResearcherError
from researcher.files import read_text
from researcher.journal.records import CONFIRM
from researcher.llm.client import Think
from researcher.proposers.schedule import Mix
from services.adopt.subject_check import ShapeRefused
from services.machine.gpus import machine_profile, state_folder
from services.machine.state import State
from services.views import show
from services.views.client import ask_and_wait
from services.views.follow import follow_run
from trainer.jobs import BusError, ProfileError
from trainer.jobs.environment import replace_unprintable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
replace_unprintable(sys.stdout, sys.stderr)
console = Console(markup=False, emoji=False)  # texts of candidates and models are shown as they are

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        file_okay=False,
        help="Folder of the run.",
        show_default="~/.local/state/overnight; root: /var/lib/overnight",
    ),
]
BAD_USE = 2
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def main() -> None:
    """Run the command line; known errors become one sentence and exit code 2."""
    from trainer.data import DataError  # noqa: PLC0415 - imports numpy, which `status` does not need

    try:
        app(prog_name="overnight")
    except (OvernightError, ResearcherError, ProfileError, BusError, DataError, ShapeRefused) as error:
        _print_error(str(error))
        sys.exit(BAD_USE)
    except redis.RedisError as error:
        _print_error(f"Redis does not answer: {error}")
        sys.exit(BAD_USE)


def version() -> str:
    """Return the version that pyproject.toml declares. The containers hold that file and install no package."""
    try:
        return metadata.version("overnight")
    except metadata.PackageNotFoundError:
        return str(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["version"])


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"overnight {version()}")
        raise typer.Exit


@app.callback()
def overnight(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Start a run, show it, steer it, and take its results."""


def _state(path: Path | None) -> State:
    return State((path or state_folder(os.environ, Path.cwd())).resolve())


def _refuse_wrong(chosen: Mapping[str, str]) -> None:
    """Refuse a wrong value in its option's own name, before anything is written."""
    for key, value in chosen.items():
        form = EndpointModelForm if key == "MODEL" else TABLE[key].written  # not every model is Ollama's
        row = replace(TABLE[key], key=f"--{key.lower().replace('_', '-')}", written=form)
        if (fault := row.fault_of(value)) is not None:
            _refuse(str(fault))


def _print_error(words: str) -> None:
    console.print(Text.assemble(("overnight:", "bold red"), f" {words}"), soft_wrap=True)


def _refuse(message: str) -> NoReturn:
    _print_error(message)
    raise typer.Exit(BAD_USE)


@app.command()
def run(
    state: StateOption = None,
    experiments: Annotated[int | None, typer.Option(min=1, help=TABLE["EXPERIMENTS"].summary)] = None,
    profile: Annotated[str | None, typer.Option(help="Trial set-up; detected from the GPU, else cpu.")] = None,
    budget: Annotated[float | None, typer.Option(min=0.1, help=TABLE["BUDGET"].summary)] = None,
    subject: Annotated[Path | None, typer.Option(help="Your own git repository with train.py and prepare.py.")] = None,
    text: Annotated[Path | None, typer.Option(help="Folder of your own .txt and .md files to train on.")] = None,
    proposer: Annotated[Mix | None, typer.Option(help=TABLE["PROPOSER"].summary)] = None,
    rule: Annotated[Rule | None, typer.Option(help=TABLE["RULE"].summary)] = None,
    redis_url: Annotated[str | None, typer.Option(help="A server of your own, instead of the embedded one.")] = None,
    tag: Annotated[str | None, typer.Option(help=TABLE["TAG"].summary)] = None,
    seed: Annotated[int | None, typer.Option(help=TABLE["SEED"].summary)] = None,
    llm: Annotated[str | None, typer.Option(help=TABLE["LLM"].summary)] = None,
    model: Annotated[str | None, typer.Option(help=TABLE["MODEL"].summary)] = None,
    ollama_host: Annotated[str | None, typer.Option(help=TABLE["OLLAMA_HOST"].summary)] = None,
    openai_base_url: Annotated[str | None, typer.Option(help=TABLE["OPENAI_BASE_URL"].summary)] = None,
    openai_api_key_file: Annotated[Path | None, typer.Option(help=TABLE["OPENAI_API_KEY_FILE"].summary)] = None,
    num_ctx: Annotated[int | None, typer.Option(help=TABLE["NUM_CTX"].summary)] = None,
    num_predict: Annotated[int | None, typer.Option(help=TABLE["NUM_PREDICT"].summary)] = None,
    llm_deadline_s: Annotated[float | None, typer.Option(help=TABLE["LLM_DEADLINE_S"].summary)] = None,
    think: Annotated[Think | None, typer.Option(help=TABLE["THINK"].summary)] = None,
    edit_share: Annotated[float | None, typer.Option(help=TABLE["EDIT_SHARE"].summary)] = None,
    advice_share: Annotated[float | None, typer.Option(help=TABLE["ADVICE_SHARE"].summary)] = None,
    hours: Annotated[float | None, typer.Option(help=TABLE["HOURS"].summary)] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help=TABLE["PRICE_PER_HOUR"].summary)] = None,
    max_cost: Annotated[float | None, typer.Option(help=TABLE["MAX_COST"].summary)] = None,
    unsafe_local: Annotated[
        bool, typer.Option("--unsafe-local", help="Run candidates although the sandbox has a hole on this machine.")
    ] = False,
) -> None:
    """Start a run on this machine, or continue it: set-up, baseline, experiments, summary.

    A run continues with the options of its last start, unless others are given here or in the environment.
    """
    from services.local import RunOptions, run_local  # noqa: PLC0415 - the other commands start faster without it

    researcher = {
        "EXPERIMENTS": experiments,
        "PROPOSER": proposer,
        "RULE": rule,
        "TAG": tag,
        "SEED": seed,
        "LLM": llm,
        "MODEL": model,
        "OLLAMA_HOST": ollama_host,
        "OPENAI_BASE_URL": openai_base_url,
        "OPENAI_API_KEY_FILE": openai_api_key_file,
        "NUM_CTX": num_ctx,
        "NUM_PREDICT": num_predict,
        "LLM_DEADLINE_S": llm_deadline_s,
        "THINK": think,
        "EDIT_SHARE": edit_share,
        "ADVICE_SHARE": advice_share,
        "PRICE_PER_HOUR": price_per_hour,
        "HOURS": hours,
        "MAX_COST": max_cost,
    }
    chosen = {name: str(value) for name, value in researcher.items() if value is not None}
    _refuse_wrong(chosen)
    options = RunOptions(
        profile=profile,
        budget=budget,
        subject=subject,
        text=text,
        redis_url=redis_url,
        unsafe=unsafe_local,
        researcher=chosen,
    )
    raise typer.Exit(run_local(_state(state), options, console))


@app.command()
def status(
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON, for scripts.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show the run until its end; Ctrl-C stops nothing.")] = False,
) -> None:
    """Show the state of the run."""
    if follow:
        raise typer.Exit(follow_run(_state(state), console))
    show.show_status(_state(state), console, as_json=as_json)


@app.command()
def log(
    number: Annotated[int | None, typer.Argument(metavar="[ID]", help="An experiment's number.")] = None,
    state: StateOption = None,
) -> None:
    """Show all experiments, or everything about one: hypothesis, decision, trials, the stored log."""
    show.show_log(_state(state), number, console)


@app.command()
def diff(number: Annotated[int, typer.Argument(metavar="ID")], state: StateOption = None) -> None:
    """Show the change of an experiment."""
    show.show_diff(_state(state), number, console)


@app.command()
def best(
    state: StateOption = None,
    source: Annotated[bool, typer.Option("--source", help="Print only its train.py.")] = False,
) -> None:
    """Show the best version so far: its score, whether it is confirmed, its diff against the baseline."""
    show.show_best(_state(state), console, source=source)


@app.command()
def idea(text: str, state: StateOption = None) -> None:
    """Send an idea to the LLM, which turns it into code in its next proposal."""
    _ask(state, "idea", text)


@app.command()
def submit(file: Path, state: StateOption = None) -> None:
    """Put a train.py of your own into the run; the next experiment runs it as it is."""
    try:
        source = read_text(file)
    except OSError as error:
        _refuse(f"cannot read {file} as text: {error}")
    name = file.name.replace("\n", " ")  # the first line is the name
    _ask(state, "submit", f"{name}\n{source}")


@app.command()
def confirm(state: StateOption = None) -> None:
    """Measure the best version so far with fresh seeds now, against the last confirmed one."""
    _ask(state, CONFIRM)


@app.command()
def pause(state: StateOption = None) -> None:
    """Pause the run after the running trial."""
    _ask(state, "pause")


@app.command()
def resume(state: StateOption = None) -> None:
    """Continue the run after a pause."""
    _ask(state, "resume")


@app.command()
def stop(state: StateOption = None) -> None:
    """Stop the run cleanly; `run` continues it later."""
    _ask(state, "stop")


@app.command()
def export(
    to: Annotated[Path, typer.Option(file_okay=False, help="Folder for the files.")] = Path("overnight-export"),
    state: StateOption = None,
) -> None:
    """Write results.tsv and .json, proposers.tsv, progress.png, the best train.py and subject.bundle into a folder."""
    show.export(_state(state), to, console)


@app.command()
def init(
    subject: Annotated[Path, typer.Option(help="Your own git repository with train.py and prepare.py.")],
    yes: Annotated[bool, typer.Option("--yes", help="Run its prepare.py without asking.")] = False,
    profile: Annotated[str | None, typer.Option(help="Trial set-up; detected from the GPU, else cpu.")] = None,
    budget: Annotated[float | None, typer.Option(min=0.1, help="Seconds of training; else its TIME_BUDGET.")] = None,
    train_rows: Annotated[int | None, typer.Option(min=1, help="Most rows to train on; else 1 GiB of tokens.")] = None,
    read: Annotated[list[Path] | None, typer.Option(help="Another folder that its prepare.py may read.")] = None,
    train: Annotated[str, typer.Option(metavar="NAME", help="The name of its train.py.")] = "train.py",
    state: StateOption = None,
) -> None:
    """Prepare a repository of your own for runs, without editing it: read it, and run its prepare.py once in the
    sandbox."""
    from services.adopt.adopt import Init, adopt  # noqa: PLC0415 - imports numpy

    wanted = profile or machine_profile(os.environ, console.print)
    options = Init(subject, wanted, budget, train_rows, tuple(read or ()), train)
    if adopt(_state(state), options, lambda question: yes or typer.confirm(question), console) is None:
        _refuse("nothing was run or written; to continue, repeat the command and agree, or add --yes")


@app.command()
def prepare(
    profile: Annotated[str | None, typer.Option(help="Trial set-up; detected from the GPU, else cpu.")] = None,
    text: Annotated[Path | None, typer.Option(help="Folder of your own .txt and .md files.")] = None,
    unseen: Annotated[Path | None, typer.Option(help="Folder of private text on which a claim must gain.")] = None,
    state: StateOption = None,
) -> None:
    """Download and prepare the text of a profile; `run` does this by itself."""
    from services.adopt.adopt import settle_data  # noqa: PLC0415 - imports numpy and the tokenizer library

    folder = _state(state)
    choices = folder.resolve(profile=profile, detect=lambda: machine_profile(os.environ, console.print), text=text)
    manifest = settle_data(folder, choices, console, unseen)
    console.print(f"{manifest.text}: {manifest.rows['train']} rows to train on, {manifest.rows['val']} to score on")


@app.command()
def pull(
    model: Annotated[str | None, typer.Argument(help="Ollama's name of the model; else MODEL, or by profile.")] = None,
    profile: Annotated[str | None, typer.Option(help="Trial set-up; detected from the GPU, else cpu.")] = None,
    ollama_host: Annotated[str | None, typer.Option(help=TABLE["OLLAMA_HOST"].summary, envvar="OLLAMA_HOST")] = None,
) -> None:
    """Download the LLM's model through Ollama, and show the progress; after an interruption, the same command
    continues."""
    from services.machine.model import model_wanted, pull_model  # noqa: PLC0415 - imports the client of Ollama

    here = {**_state(None).settings(), **os.environ} | ({} if ollama_host is None else {"OLLAMA_HOST": ollama_host})
    try:
        wanted = model_wanted(here, profile or machine_profile(os.environ, console.print), model)
    except ValueError as error:
        _refuse(str(error))
    pull_model(wanted, console)


@app.command()
def trial(
    file: Path,
    seed: Annotated[int, typer.Option(help="The trial's seed.")] = 42,
    profile: Annotated[str | None, typer.Option(help="Trial set-up; else the run's, or detected from the GPU.")] = None,
    state: StateOption = None,
) -> None:
    """Run one trusted trial of a train.py outside of any run, and print its score."""
    from services.single_trial import run_single_trial  # noqa: PLC0415 - imports the trainer

    raise typer.Exit(run_single_trial(_state(state), file, seed, profile, console))


@app.command()
def doctor(
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write a file for a bug report, without secrets.")
    ] = None,
    state: StateOption = None,
) -> None:
    """List the requirements for a run that this machine meets and lacks; change nothing."""
    from services.doctor import Mode, examine, exit_code, print_findings, this_machine, write_report  # noqa: PLC0415

    here = _state(state)
    facts = this_machine(Path(__file__).resolve().parents[1], here, {**here.settings(), **os.environ})
    findings = examine(Mode.LOCAL, facts)
    print_findings(findings, console)
    if report is not None:
        write_report(report, Mode.LOCAL, findings, facts)
    raise typer.Exit(exit_code(findings))


def _ask(state: Path | None, kind: str, body: str = "") -> None:
    console.print(ask_and_wait(_state(state), kind, body))


if __name__ == "__main__":
    main()
