"""Starts the stack and watches its run: the work of `scripts/up` behind its command line.

In order: the doctor, gpu.local.env, gpu-check at the first start, `docker compose up`, its changes and times, the view,
and the user's command after the run has ended. A second call changes nothing and says so. Only the services in
`REQUIRED`, and those that they depend on, can make it fail. The LLM and the dry runs are started beside the run, and
may come later or never.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from services.dashboard.address import SERVICE as PAGE
from services.dashboard.address import address, free_port
from services.doctor import Environment, Mode, Severity, examine, exit_code, print_findings
from services.doctor.engine import HOOK, has_only_cdi
from services.doctor.environment import compose_files
from services.machine.compose import ComposeProject, Container, Stack, StackError
from services.machine.gpu_env import settings
from services.machine.gpus import AUTO
from services.stack.end_action import run_after
from services.stack.follow import Ending, watch_run
from services.stack.gpu_first import check_gpu_first
from services.stack.local_env import write_local
from services.views.render import clock_text
from trainer.jobs import profile_named

NEXT = """\
next   scripts/status            how it stands            scripts/logs researcher   what it does
       scripts/down              stop; all is kept        scripts/results FOLDER    fetch what came of it
       docker compose -p {project} exec researcher overnight idea "try a wider MLP"
"""
OVER = """\
the run has ended; its researcher stays for questions. Next: scripts/results FOLDER, scripts/down,
or more of it: scripts/up with a larger limit, docker compose restart researcher without one"""

NOTICED_S = 1.0
REQUIRED = ("redis", "trainer", "researcher")
PREPARING = ("secrets", "data")  # compose starts them, because required services depend on them
BESIDE_S = 60.0  # enough to start containers whose images are there, after one-shots on a busy machine


@dataclass(frozen=True)
class UpOptions:
    """The options of the user. `limits` are settings of gpu.env for this start, `then` is the end action's command.
    `skip_gpu_check` leaves out the measurements on the GPU before the first start."""

    mode: Mode
    limits: Mapping[str, str]
    then: str | None
    skip_gpu_check: bool = False


def prepare(options: UpOptions, facts: Environment, console: Console) -> None:
    """Check the machine before anything is started, and write the detected GPU's values. Raises StackError for a
    FAIL."""
    findings = examine(options.mode, facts)
    print_findings([each for each in findings if each.severity in (Severity.WARN, Severity.FAIL)], console)
    if exit_code(findings):
        raise StackError("not started", "do what the lines above say, then the same command again")
    if options.mode is Mode.GPU:
        gpu_env, *others = facts.settings_files(options.mode)
        held = settings(gpu_env, tuple(others), facts.environment)
        console.print(write_local(facts.root, held, facts.installed_gpus()), markup=False)


def check_gpu(options: UpOptions, stack: Stack, facts: Environment, console: Console) -> None:
    """Measure on the GPU what a run needs, before the first start of a stack with a GPU. Raises StackError."""
    if options.mode is not Mode.GPU or options.skip_gpu_check:
        return
    gpu_env, *others = facts.settings_files(options.mode)
    held = settings(gpu_env, tuple(others), facts.environment)
    named = held.get("PROFILE", AUTO)
    if named != AUTO and profile_named(named).device == "cpu":
        return
    project = ComposeProject(facts.root, compose_files(options.mode), options.limits)
    check_gpu_first(stack, project, held.get("GPU_UUID", ""), None if named == AUTO else named, console.print)


def bring_up(options: UpOptions, stack: Stack, folder: Path, console: Console) -> None:
    """Build and start the missing containers; print the changes, and the optional parts that are still missing. Raises
    StackError if a required container does not become healthy."""
    by_cdi = has_only_cdi(stack.engine.info(), shutil.which(HOOK))
    project = ComposeProject(folder, compose_files(options.mode, by_cdi=by_cdi), options.limits)
    project = with_free_port(project, stack, console)
    optional = [name for name in project.services() if name not in (*REQUIRED, *PREPARING)]
    before, began = stack.containers(), datetime.now(UTC)
    try:
        code = stack.up(project, REQUIRED)
        ended = datetime.now(UTC)
        if code != 0:
            _refuse(stack, console)
        coming = [f"still coming: {line}" for line in start_optional(stack, project, optional)]
    except KeyboardInterrupt:
        raise StackError("interrupted; what is up stays up", "the same command again, or scripts/down") from None
    after = stack.containers()
    changed = changes(before, after)
    console.print(", ".join(changed) if changed else "already up: nothing changed", markup=False)
    if changed:
        console.print(f"up: {times(began, ended, after)}", markup=False)
    for line in coming:
        console.print(line, markup=False)
    if coming:
        console.print("the run goes on without them", markup=False)
    for each in after:
        if each.service == PAGE and each.port is not None:
            console.print(f"page   {address(each.port)}", markup=False)
    console.print(NEXT.format(project=stack.project), markup=False, end="")


def with_free_port(project: ComposeProject, stack: Stack, console: Console) -> ComposeProject:
    """Return the project with any free port for the page if another program has the port that the page asks for.

    Otherwise compose would stop there, also with the services that it starts beside the page.
    """
    wanted = project.port(PAGE) if PAGE in project.services() else None
    own = {each.port for each in stack.containers() if each.service == PAGE}
    if not wanted or wanted in own or free_port(wanted) == wanted:
        return project
    console.print(f"port {wanted} is taken, so the page gets another one", markup=False)
    return replace(project, limits={**project.limits, "PAGE_PORT": "0"})


def _refuse(stack: Stack, console: Console) -> NoReturn:
    for each in stack.containers():
        if each.service in (*REQUIRED, *PREPARING) and not each.is_well:
            console.print(container_text(stack, each), markup=False)
    raise StackError("not everything came up", "see the lines above, and scripts/logs SERVICE for the reason")


def start_optional(stack: Stack, project: ComposeProject, services: Sequence[str]) -> list[str]:
    """Start services that the run can do without; return a line for each that is not there yet, with its progress.

    An image that is still being pulled after BESIDE_S seconds is pulled further without this process.
    """
    if not services:
        return []
    with tempfile.TemporaryFile() as output:
        process = stack.start_beside(project, services, output)
        try:
            code = process.wait(BESIDE_S)
        except subprocess.TimeoutExpired:
            code = None
        output.seek(0)
        last = (output.read().decode(errors="replace").strip().splitlines() or ["compose said nothing"])[-1].strip()
    return list(_missing(stack, services, last if code else "its image is being pulled or built"))


def _missing(stack: Stack, services: Sequence[str], without_container: str) -> Iterator[str]:
    there = {each.service: each for each in stack.containers()}
    for name in services:
        if name not in there:
            yield f"{name:<10} not started: {without_container}"
        elif not there[name].is_well:
            yield container_text(stack, there[name])


def changes(before: Sequence[Container], after: Sequence[Container]) -> list[str]:
    """Return `SERVICE started`, `recreated`, `started again` or `removed` for each change; one-shots run at every `up`
    and count only when recreated."""
    old = {each.service: each for each in before}
    lines = []
    for each in after:
        known = old.get(each.service)
        if known is None:
            lines.append(f"{each.service} started")
        elif known.id != each.id:
            lines.append(f"{each.service} recreated")
        elif known.started_at != each.started_at and not each.is_one_shot:
            lines.append(f"{each.service} started again")
    gone = {each.service for each in before} - {each.service for each in after}
    return lines + [f"{service} removed" for service in sorted(gone)]


def times(began: datetime, ended: datetime, after: Sequence[Container]) -> str:
    """Return `images 2:50, then healthy after 0:52 (data 0:31, model 0:10)`; it names one-shots of `NOTICED_S` seconds
    or more."""
    fresh = [each for each in after if each.started_at >= began]
    up_from = min((each.started_at for each in fresh), default=ended)
    spent = {
        each.service: (each.finished_at - each.started_at).total_seconds()
        for each in fresh
        if each.is_one_shot and each.finished_at >= each.started_at
    }
    named = ", ".join(f"{name} {clock_text(spent_s)}" for name, spent_s in spent.items() if spent_s >= NOTICED_S)
    images, healthy = (up_from - began).total_seconds(), (ended - up_from).total_seconds()
    return f"images {clock_text(images)}, then healthy after {clock_text(healthy)}" + (f" ({named})" if named else "")


def container_text(stack: Stack, container: Container) -> str:
    """Return one line about a container; if it is not well, the line ends with its last message."""
    at = "" if container.port is None else f", {address(container.port)}"
    line = f"{container.service:<10} {container.in_words()}{at}"
    if container.is_well or container.state == "created":
        return line
    last = container.health_output or next(iter(stack.last_lines(container, 1)), None)
    if last is None:
        return line if container.health == "starting" else f"{line}: it printed nothing"
    return f"{line}: {' '.join(last.splitlines())}"


def watch(options: UpOptions, stack: Stack, console: Console, *, terminal: bool) -> int:
    """Show the run until it has ended, then run the end action; return the exit code."""
    ending = watch_run(stack, console, terminal=terminal)
    if ending is Ending.OVER:
        console.print(OVER)
        return run_after(options.then, console) if options.then is not None else 0
    message = {
        Ending.LEFT: "the run goes on; scripts/status shows it, scripts/up follows it again, scripts/down stops it",
        Ending.REFUSED: "the researcher refuses to run; fix what it says above, then the same command again",
        Ending.GONE: "the stack is gone; scripts/up brings it back",
    }[ending]
    console.print(message + ("" if options.then is None else f". Not run: {options.then}"), markup=False)
    return 0 if ending is Ending.LEFT else 1
