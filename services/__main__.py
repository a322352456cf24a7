"""`python -m services`: the operator's commands behind scripts/, for the stack of containers.

An error is one sentence with the next step, and exit code 2. Requests to the run itself go through `overnight`, inside
the researcher's container.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from researcher.config.settings import TABLE
from researcher.errors import OvernightError
from services import doctor
from services.doctor import Environment, Mode, Severity
from services.doctor.engine import compose, reach
from services.machine.compose import ENGINE_AWAY, PROJECT, Container, Stack, StackError
from services.machine.gpu_env import settings
from services.machine.gpus import state_folder
from services.machine.installation import ROOT, Form, form
from services.machine.state import State
from services.run_commands import until_of
from services.stack import end_action
from services.stack.gpu_first import SKIP
from services.stack.results import RESEARCHER, fetch
from services.stack.up import UpOptions, bring_up, check_gpu, container_text, prepare, watch
from services.views.terminal import BAD_USE, print_error
from trainer.jobs.environment import SHELL

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(
    highlight=False, soft_wrap=True, markup=False, emoji=False
)  # texts of candidates are shown as they are

Cpu = Annotated[bool, typer.Option("--cpu", help="Without a GPU.")]


def main() -> None:
    """Run the command line; known errors become one sentence and exit code 2."""
    if form() is Form.WHEEL:
        _refuse("the containers need a clone of the repository, and this is a wheel; next: overnight run")
    try:
        app()
    except OvernightError as error:
        _refuse(str(error))
    except ENGINE_AWAY as error:
        _refuse(f"the Docker engine does not answer any more ({error}); next: scripts/doctor")


def _refuse(message: str) -> None:
    print_error(message)
    sys.exit(BAD_USE)


@app.command()
def up(
    cpu: Cpu = False,
    experiments: Annotated[int | None, typer.Option(min=1, help=TABLE["EXPERIMENTS"].summary)] = None,
    hours: Annotated[float | None, typer.Option(min=0, help=TABLE["HOURS"].summary)] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help=TABLE["MAX_COST"].summary)] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME, as 07:00", help=TABLE["UNTIL"].summary)] = None,
    then: Annotated[str | None, typer.Option(help=end_action.HELP)] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the run is healthy.")] = False,
    skip_gpu_check: Annotated[
        bool, typer.Option(SKIP, help="Do not measure on the GPU before the first start.")
    ] = False,
) -> None:
    """Check, build, start, wait until redis, trainer and researcher are healthy, and show the run. Running containers
    are left alone. The LLM may come later."""
    if detach and then is not None:
        raise StackError("--then waits for the end of the run", "leave --detach out, and use nohup or systemd-run")
    limits = {"EXPERIMENTS": experiments, "HOURS": hours, "UNTIL": until_of(until), "MAX_COST": max_cost}
    options = UpOptions(
        mode=Mode.CPU if cpu else Mode.GPU,
        limits={name: str(value) for name, value in limits.items() if value is not None},
        then=None if then is None else end_action.checked(then, SHELL),
        skip_gpu_check=skip_gpu_check,
    )
    facts = _facts(options.limits)
    prepare(options, facts, console)
    stack = _stack(facts)
    check_gpu(options, stack, facts, console)
    bring_up(options, stack, ROOT, console)
    if not detach:
        raise typer.Exit(watch(options, stack, console, terminal=_on_terminal()))


@app.command()
def status() -> None:
    """Show the state of the containers and of the run."""
    stack = _stack(_facts())
    containers = _those_up(stack)
    for each in containers:
        console.print(container_text(stack, each), markup=False)
    if not any(each.service == RESEARCHER and each.state == "running" for each in containers):
        raise StackError("the run is not running", "scripts/up")
    raise typer.Exit(stack.execute(RESEARCHER, "overnight", "status", terminal=_on_terminal()))


@app.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="One container; else all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option(min=0, help="Number of last lines of each container.")] = 100,
) -> None:
    """Show the logs of the containers."""
    stack = _stack(_facts())
    known = {each.service for each in _those_up(stack)}
    if service is not None and service not in known:
        raise StackError(f"there is no service {service}", f"one of {', '.join(sorted(known))}")
    arguments = ["--tail", str(tail), *(["--follow"] if follow else []), *([service] if service else [])]
    with contextlib.suppress(KeyboardInterrupt):
        raise typer.Exit(stack.logs(*arguments))


@app.command()
def down() -> None:
    """Stop cleanly and remove the containers; all volumes stay, so that the run can continue."""
    stack = _stack(_facts())
    if not stack.containers():
        console.print("nothing is up")
        return
    code = stack.down()
    if code == 0:
        console.print(
            f"down. Kept: the volumes {', '.join(stack.volumes())}; scripts/up goes on with the run, "
            "scripts/results copies its results"
        )
    raise typer.Exit(code)


@app.command(name="doctor")
def examine(
    cpu: Cpu = False,
    local: Annotated[bool, typer.Option("--local", help="For a run without containers.")] = False,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write a file for a bug report, without secrets.")
    ] = None,
) -> None:
    """List the requirements that this machine meets and lacks; change nothing."""
    facts = _facts()
    mode = Mode.LOCAL if local else Mode.CPU if cpu or _is_up_without_a_gpu(facts) else Mode.GPU
    findings = doctor.examine(mode, facts)
    doctor.print_findings(findings, console)
    if report is not None:
        doctor.write_report(report, mode, findings, facts)
        console.print(f"written to {report}", markup=False)
    raise typer.Exit(doctor.exit_code(findings))


@app.command()
def results(folder: Path) -> None:
    """Copy results.tsv and .json, proposers.tsv, progress.png, the best train.py and the history (subject.bundle) to a
    folder, also after `down`."""
    facts = _facts()
    gpu_env, *others = facts.settings_files(Mode.GPU)
    held = settings(gpu_env, tuple(others), facts.environment)
    names = fetch(_stack(facts), folder, user=held["RESEARCHER_USER"])
    console.print(f"in {folder}: {', '.join(names)}", markup=False)
    console.print(f"the history: git clone {folder / 'subject.bundle'}", markup=False)


def _facts(shell: Mapping[str, str] | None = None) -> Environment:
    environment = {**os.environ, **(shell or {})}
    return doctor.this_machine(ROOT, State(state_folder(environment, ROOT)), environment)


def _stack(facts: Environment) -> Stack:
    """The stack on this machine's engine. Raises StackError where there is no engine, or no compose that serves."""
    found, engine = reach(facts)
    for each in (found, compose(facts)):
        if each.severity is Severity.FAIL:
            raise StackError(f"{each.name}: {each.found}", each.fix)
    assert engine is not None
    stack = Stack(facts.environment.get("COMPOSE_PROJECT_NAME") or PROJECT, engine.client)
    elsewhere = {str(each.folder) for each in stack.containers() if each.folder.resolve() != ROOT}
    if elsewhere:
        raise StackError(
            f"a stack named {stack.project} is up from {', '.join(elsewhere)}",
            "scripts/down there, or a name of its own for this one: export COMPOSE_PROJECT_NAME=...",
        )
    return stack


def _those_up(stack: Stack) -> list[Container]:
    found = stack.containers()
    if not found:
        raise StackError("nothing is up", "scripts/up (a run without containers: .venv/bin/overnight status)")
    return found


def _is_up_without_a_gpu(facts: Environment) -> bool:
    try:
        containers = _stack(facts).containers()
    except StackError:  # the doctor has a better message for it
        return False
    return any(file.name == "compose.cpu.yaml" for each in containers for file in each.files)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


if __name__ == "__main__":
    main()
