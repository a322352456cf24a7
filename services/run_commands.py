"""The commands of `overnight` that start something: a run, a set-up, a trial, an examination of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from researcher.config.setting import moment_of
from researcher.config.settings import TABLE
from researcher.decision.rules import Rule
from researcher.journal.reader import JournalReader
from researcher.llm.client import Think
from researcher.proposers.schedule import Mix
from services.machine.gpus import machine_profile
from services.machine.installation import ROOT
from services.machine.runs import run_in
from services.machine.state import State
from services.stack.end_action import HELP, checked, run_after
from services.views.terminal import StateOption, console, refuse, state_of
from trainer.jobs import PROFILES
from trainer.jobs.environment import SHELL

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

START, LIMITS, MATERIAL, MACHINE = "Start", "Limits", "Profile, script and text", "Machine"
PLACES = "A folder, or rclone:REMOTE:PATH."
PROPOSALS, LLM, RUNS = "Proposals", "LLM", "Another run"
ProfileOption = Annotated[
    str | None,
    typer.Option(help=f"Trial set-up: {', '.join(PROFILES)}. Default: by the GPU, else cpu.", rich_help_panel=MATERIAL),
]


def _option(key: str, panel: str, **more: Any) -> Any:
    """Return the option that sets a key of the table."""
    return typer.Option(help=TABLE[key].summary, rich_help_panel=panel, **more)


@contextmanager
def _known_errors() -> Iterator[None]:
    """Turn errors of the data and of an adopted repository into one sentence."""
    from services.adopt.subject_check import ShapeRefused  # noqa: PLC0415 - imports numpy
    from trainer.data import DataError  # noqa: PLC0415 - imports numpy

    try:
        yield
    except (DataError, ShapeRefused) as error:
        refuse(str(error))


def _machine_profile() -> str:
    return machine_profile(os.environ, console.print)


def until_of(text: str | None) -> str | None:
    """Return the moment of `--until` as the table's UNTIL writes it; end the command if it is none."""
    if text is None:
        return None
    try:
        return moment_of(text, datetime.now().astimezone()).isoformat()
    except ValueError as error:
        refuse(f"--until: {error}")


@app.command(
    rich_help_panel=START,
    epilog="Examples: overnight run --experiments 12 · overnight run --until 07:00 · "
    "overnight run --hours 8 --then poweroff · overnight run --price-per-hour 2 --max-cost 10 · overnight run --new",
)
def run(
    state: StateOption = None,
    experiments: Annotated[int | None, _option("EXPERIMENTS", LIMITS, min=1)] = None,
    hours: Annotated[float | None, _option("HOURS", LIMITS)] = None,
    until: Annotated[str | None, _option("UNTIL", LIMITS, metavar="TIME, as 07:00")] = None,
    max_cost: Annotated[float | None, _option("MAX_COST", LIMITS)] = None,
    price_per_hour: Annotated[float | None, _option("PRICE_PER_HOUR", LIMITS)] = None,
    profile: ProfileOption = None,
    budget: Annotated[float | None, _option("BUDGET", MATERIAL, min=0.1)] = None,
    subject: Annotated[
        Path | None,
        typer.Option(help="Your own git repository, which `overnight init` has taken.", rich_help_panel=MATERIAL),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Folder of your own .txt and .md files to train on.", rich_help_panel=MATERIAL),
    ] = None,
    proposer: Annotated[Mix | None, _option("PROPOSER", PROPOSALS, metavar="NAME")] = None,
    rule: Annotated[Rule | None, _option("RULE", PROPOSALS)] = None,
    llm: Annotated[str | None, _option("LLM", LLM)] = None,
    model: Annotated[str | None, _option("MODEL", LLM)] = None,
    ollama_host: Annotated[str | None, _option("OLLAMA_HOST", LLM)] = None,
    openai_base_url: Annotated[str | None, _option("OPENAI_BASE_URL", LLM)] = None,
    openai_api_key_file: Annotated[Path | None, _option("OPENAI_API_KEY_FILE", LLM)] = None,
    num_ctx: Annotated[int | None, _option("NUM_CTX", LLM)] = None,
    num_predict: Annotated[int | None, _option("NUM_PREDICT", LLM)] = None,
    llm_deadline_s: Annotated[float | None, _option("LLM_DEADLINE_S", LLM)] = None,
    think: Annotated[Think | None, _option("THINK", LLM, metavar="LEVEL")] = None,
    edit_share: Annotated[float | None, _option("EDIT_SHARE", PROPOSALS)] = None,
    advice_share: Annotated[float | None, _option("ADVICE_SHARE", PROPOSALS)] = None,
    backup: Annotated[str | None, _option("BACKUP", MACHINE)] = None,
    then: Annotated[str | None, typer.Option(help=HELP, rich_help_panel=LIMITS)] = None,
    new: Annotated[
        bool,
        typer.Option("--new", help="Begin another run; the one before is kept below runs/.", rich_help_panel=RUNS),
    ] = False,
    from_best: Annotated[
        bool,
        typer.Option("--from-best", help="Begin it with the best version of the one before.", rich_help_panel=RUNS),
    ] = False,
    wipe: Annotated[
        bool,
        typer.Option("--wipe", help="Delete the run before and begin another one.", rich_help_panel=RUNS),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.", rich_help_panel=RUNS)] = False,
    tag: Annotated[str | None, _option("TAG", RUNS)] = None,
    seed: Annotated[int | None, _option("SEED", MACHINE)] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="A server of your own, instead of the embedded one.", rich_help_panel=MACHINE)
    ] = None,
    unsafe_local: Annotated[
        bool,
        typer.Option(
            "--unsafe-local",
            help="Run candidates although the sandbox has a hole on this machine.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    skip_gpu_check: Annotated[
        bool,
        typer.Option(
            "--skip-gpu-check", help="Do not measure on the GPU before the first run.", rich_help_panel=MACHINE
        ),
    ] = False,
    page: Annotated[
        bool, typer.Option(help="Serve the page of the run on this machine, for a browser.", rich_help_panel=MACHINE)
    ] = True,
) -> None:
    """Start a run on this machine, or continue it: set-up, baseline, experiments, summary.

    A run continues with the options of its last start, unless others are given here or in the environment.

    Another run, which begins with --new, --wipe or another --tag, takes these options, too.
    """
    from services.local import FINISHED, Replace, RunOptions, run_local  # noqa: PLC0415 - the help is shown faster
    from services.machine.backup import absolute_place  # noqa: PLC0415 - likewise

    if new and wipe:
        refuse("--new keeps the run before, and --wipe deletes it; give one of them")
    folder = state_of(state)
    if wipe:
        _agree_to_delete(folder, yes)
    command = None if then is None else checked(then, SHELL)
    settings = {
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
        "UNTIL": until_of(until),
        "MAX_COST": max_cost,
        "BACKUP": None if backup is None else absolute_place(backup),
    }
    options = RunOptions(
        profile=profile,
        budget=budget,
        subject=subject,
        text=text,
        redis_url=redis_url,
        unsafe=unsafe_local,
        researcher={name: str(value) for name, value in settings.items() if value is not None},
        replace=Replace.DELETE if wipe else Replace.SET_ASIDE if new else None,
        from_best=from_best,
        skip_gpu_check=skip_gpu_check,
        page=page,
    )
    with _known_errors():
        code = run_local(folder, options, console)
    raise typer.Exit(run_after(command, console) if command is not None and code == FINISHED else code)


def _agree_to_delete(state: State, yes: bool) -> None:
    """Ask whether the run of a state may be deleted, and end the command if not."""
    found = run_in(state)
    if found is None:
        return
    with JournalReader(state.journal) as history:
        measured = history.measured_count()
    question = (
        f"Delete run {found.tag} in {state.root} with {measured} measured experiments: journal, commits, trials and "
        "logs? Prepared data, earlier runs and a repository of your own stay as they are."
    )
    if not (yes or _agrees(question)):
        refuse("nothing was deleted; --new keeps the run and begins another one")


def _agrees(question: str) -> bool:
    """Ask, and return whether the answer is yes. Ctrl-C and the end of the input are a no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        console.print()  # the line of the question has no end yet
        return False


@app.command(rich_help_panel=START, epilog="Example: overnight init --subject DIR")
def init(
    subject: Annotated[Path, typer.Option(help="The folder of your own git repository.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask: run prepare.py, or write the proposed overnight.toml.")
    ] = False,
    profile: ProfileOption = None,
    budget: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds of training. Default: TIME_BUDGET of prepare.py.")
    ] = None,
    train_rows: Annotated[
        int | None, typer.Option(min=1, help="Limit of the rows to train on. Default: 1 GiB of tokens.")
    ] = None,
    read: Annotated[list[Path] | None, typer.Option(help="Another folder that prepare.py may read.")] = None,
    train: Annotated[str, typer.Option(metavar="NAME", help="The name of your training script.")] = "train.py",
    state: StateOption = None,
) -> None:
    """Prepare a repository of your own for runs. With an overnight.toml, check that file. With a prepare.py, run that
    once in the sandbox. With neither, propose an overnight.toml."""
    from services.adopt.adopt import Init  # noqa: PLC0415 - imports numpy
    from services.adopt.task_adoption import take  # noqa: PLC0415 - likewise

    options = Init(subject, profile or _machine_profile(), budget, train_rows, tuple(read or ()), train)
    with _known_errors():
        held = take(state_of(state), options, lambda question: yes or _agrees(question), console)
    if held is None:
        refuse("nothing was run or written; to continue, repeat the command and agree, or add --yes")


@app.command(rich_help_panel=START, epilog="Example: overnight prepare --text DIR")
def prepare(
    profile: ProfileOption = None,
    text: Annotated[Path | None, typer.Option(help="Folder of your own .txt and .md files.")] = None,
    unseen: Annotated[Path | None, typer.Option(help="Folder of private text on which a claim must gain.")] = None,
    state: StateOption = None,
) -> None:
    """Download and prepare the text of a profile; `run` does this by itself."""
    from services.adopt.adopt import settle_data  # noqa: PLC0415 - imports numpy and the tokenizer library
    from services.adopt.task_adoption import settle_task  # noqa: PLC0415 - likewise

    with _known_errors():
        folder = state_of(state)
        choices = folder.resolve(profile=profile, detect=_machine_profile, text=text)
        if choices.task is not None:
            settle_task(folder, choices, begins=not folder.has_begun)
            console.print("the task of overnight.toml is here and intact")
            return
        manifest = settle_data(folder, choices, console, unseen)
    console.print(f"{manifest.text}: {manifest.rows['train']} rows to train on, {manifest.rows['val']} to score on")


@app.command(rich_help_panel=START, epilog="Example: overnight pull qwen3.5:4b")
def pull(
    model: Annotated[str | None, typer.Argument(help="Ollama's name of the model; else MODEL, or by profile.")] = None,
    profile: ProfileOption = None,
    ollama_host: Annotated[str | None, typer.Option(help=TABLE["OLLAMA_HOST"].summary, envvar="OLLAMA_HOST")] = None,
) -> None:
    """Download the LLM's model through Ollama, and show the progress; after an interruption, the same command
    continues."""
    from services.machine.model import model_wanted, pull_model  # noqa: PLC0415 - imports the client of Ollama

    here = {**state_of(None).settings(), **os.environ} | ({} if ollama_host is None else {"OLLAMA_HOST": ollama_host})
    try:
        wanted = model_wanted(here, profile or _machine_profile(), model)
    except ValueError as error:
        refuse(str(error))
    pull_model(wanted, console)


@app.command(rich_help_panel=START, epilog="Example: overnight trial my_train.py --seed 7")
def trial(
    file: Path,
    seed: Annotated[int, typer.Option(help="The trial's seed.")] = 42,
    profile: Annotated[str | None, typer.Option(help="Trial set-up; else the run's, or detected from the GPU.")] = None,
    state: StateOption = None,
) -> None:
    """Run one trusted trial of a train.py outside of any run, and print its score."""
    from services.trainer.single_trial import run_single_trial  # noqa: PLC0415 - imports the trainer

    with _known_errors():
        raise typer.Exit(run_single_trial(state_of(state), file, seed, profile, console))


@app.command(rich_help_panel=START, epilog="Example: overnight doctor --report report.txt")
def doctor(
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write a file for a bug report, without secrets.")
    ] = None,
    state: StateOption = None,
) -> None:
    """List the requirements for a run that this machine meets and lacks; change nothing."""
    from services.doctor import Mode, examine, exit_code, print_findings, this_machine, write_report  # noqa: PLC0415

    here = state_of(state)
    facts = this_machine(ROOT, here, {**here.settings(), **os.environ})
    findings = examine(Mode.LOCAL, facts)
    print_findings(findings, console)
    if report is not None:
        write_report(report, Mode.LOCAL, findings, facts)
        console.print(f"written to {report}", soft_wrap=True)
    raise typer.Exit(exit_code(findings))


@app.command("backup", rich_help_panel=START, epilog="Example: overnight backup rclone:box:runs")
def write_one_backup(
    place: Annotated[str, typer.Argument(help=PLACES)],
    state: StateOption = None,
) -> None:
    """Write a backup of the run now, a few MB: journal, settings and commits; `run --backup` does it after every
    decision."""
    from services.machine.backup import absolute_place, back_up  # noqa: PLC0415 - imports git

    back_up(state_of(state), absolute_place(place), console)


@app.command(rich_help_panel=START, epilog="Example: overnight restore rclone:box:runs --state DIR")
def restore(
    source: Annotated[str, typer.Argument(help=PLACES)],
    state: StateOption = None,
    name: Annotated[str | None, typer.Option(help="The backup to restore, if the place holds several.")] = None,
    subject: Annotated[Path | None, typer.Option(help="Where your own repository is now.")] = None,
) -> None:
    """Restore a run from a backup into a state folder without a run; then `run` continues it, and loses at most the
    trial that ran."""
    from services.machine.backup import absolute_place, restore_run  # noqa: PLC0415 - imports git

    restore_run(state_of(state), absolute_place(source), name, subject, console)


@app.command(rich_help_panel=START, epilog="Example: overnight gpu-check --json gpu.json")
def gpu_check(
    profile: ProfileOption = None,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write the report as JSON.")] = None,
    state: StateOption = None,
) -> None:
    """Measure on the GPU what a run needs, in a few minutes: whether it fits, and how long a trial takes."""
    from services.doctor.gpu_check_command import run_gpu_check  # noqa: PLC0415 - imports the trainer

    raise typer.Exit(run_gpu_check(state_of(state), profile, json, console))


@app.command(rich_help_panel=START, epilog="Example: overnight dashboard --port 9000")
def dashboard(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The port; else 8642 or a free one.")] = None,
    state: StateOption = None,
) -> None:
    """Serve the page of the run on this machine until Ctrl-C, also after the run has ended."""
    from services.dashboard.address import LOOPBACK, address, listen, listen_near, port_of  # noqa: PLC0415 - only here
    from services.dashboard.server import serve  # noqa: PLC0415 - imports FastAPI

    folder = state_of(state)
    folder.require_run()
    listener = listen_near() if port is None else listen(LOOPBACK, port)
    console.print(f"page  {address(port_of(listener))}  (Ctrl-C ends it; the run goes on)", soft_wrap=True)
    serve(folder, listener)
