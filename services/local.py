"""Local mode: one run as plain processes on this machine, with an embedded server, from set-up to summary.

It starts the same services as the containers, in order, and watches them until the researcher ends. All files are below
the state folder, so the same command continues where the last one stopped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from researcher.config.rules import asks_llm
from researcher.config.setting import EndpointModelForm, Reader, SettingFault, Source
from researcher.config.settings import TABLE, Settings, faults
from researcher.decision.cost import cost_of
from researcher.decision.goal import exceeded, moment_text
from researcher.errors import OvernightError
from researcher.journal.database import WriterLock
from researcher.journal.reader import JournalReader
from researcher.journal.records import Run
from researcher.repository.publishing import UserRepository
from researcher.repository.recovery import begin_with
from services.adopt.task_adoption import settle
from services.dashboard.address import address, listen_near, port_of
from services.doctor.gpu_check_command import check_before_run
from services.doctor.gpu_machine import this_gpu_machine
from services.machine.gpus import machine_profile, require_gpu
from services.machine.installation import require
from services.machine.model import warn_if_missing
from services.machine.runs import (
    delete,
    earlier_runs,
    finish_interrupted,
    require_outermost,
    run_in,
    set_aside,
    tag_of_another,
)
from services.machine.state import RunConfig, RunSettings, State
from services.machine.subject import repository_of, require_taken, settle_subject
from services.machine.supervisor import Child, ChildStatus, ProcessSupervisor
from services.redis import acl
from services.redis.server import RedisServer, start_server
from services.views.local import DASHBOARD, DRY_RUN_WORKER, RESEARCHER, TRAINER, Watched, summary, watch
from trainer.jobs import RedisClient, connect, profile_named
from trainer.jobs.environment import Program, environment, python_command
from trainer.sandbox.candidate_user import AUTO
from trainer.stop import StopRequested, request_stop

STOP_GRACE_S = 20.0
# The supervisor restarts a process that ends, except with these exit codes.
FINISHED, REFUSED = 0, 2
STOPPED = 130
# These names are so common that in a shell they may mean something else; local mode takes them as options only.
ASKED_BY_OPTION = ("EXPERIMENTS", "HOURS", "MAX_COST", "SEED", "TAG", "UNTIL")
# The settings that a state folder remembers; `RunConfig` holds the others.
REMEMBERED = [
    key
    for key, row in TABLE.items()
    if Reader.RESEARCHER in row.readers
    and row.source is not Source.STARTER
    and key not in ("PROFILE", "BUDGET", "SUBJECT_DIR")
]


class OptionRefused(OvernightError):
    """An option, or a setting of the environment, cannot be used."""


@dataclass(frozen=True)
class RunOptions:
    """The options of the user; None where the environment, the start before, a default or detection decides.

    `researcher` are the settings that were given as options, by key. `replace` says what becomes of the run that is
    here, if this start begins another one; `from_best` lets that one begin with the newest kept version.
    `skip_gpu_check` leaves out the measurements on the GPU before the first run.
    With `page`, the page of the run is served beside it.
    """

    profile: str | None
    budget: float | None
    subject: Path | None
    text: Path | None
    redis_url: str | None
    unsafe: bool
    researcher: dict[str, str]
    replace: Replace | None = None
    from_best: bool = False
    skip_gpu_check: bool = False
    page: bool = False


class Replace(StrEnum):
    """What becomes of the run in the state, if another one begins there."""

    SET_ASIDE = "set aside"
    DELETE = "delete"


def run_local(state: State, options: RunOptions, console: Console) -> int:
    """Run until the goal, a stop or Ctrl-C. Returns the exit code, which is 130 after a signal, also in the set-up.

    Raises PackageMissing without torch, which only a user's own task does not need.
    """
    known = state.choices()
    if known is None or known.task is None:
        require("torch")
    _stop_at_signals()
    try:
        return _set_up_and_run(state, options, console)
    except StopRequested:
        console.print("stopped; the same command goes on from here")
        return STOPPED


def _set_up_and_run(state: State, options: RunOptions, console: Console) -> int:
    finish_interrupted(state)
    replaced = _replaced(state, options)
    settings = _settings(state, options, replaced)
    checked = check_options(state, options, settings.values)
    if replaced is None:
        _refuse_what_has_passed(state, checked)
    lock = _lock(state)
    try:
        choices = state.resolve(
            profile=options.profile,
            budget=options.budget,
            subject=options.subject,
            text=options.text,
            detect=lambda: machine_profile(os.environ, console.print),
            set_aside=None
            if replaced is None
            else lambda wanted: _begin_another(state, options, replaced, wanted, settings.values, console),
        )
        profile = choices.trial_profile()
        for change in settings.changes:
            console.print(change, soft_wrap=True)
        warn_if_missing(settings.values, choices.profile, console)
        if not state.has_begun:
            require_taken(state.user_repository(choices), choices, state.root)
        settle_subject(state, state.user_repository(choices), profile, choices.script)
        require_gpu(profile, os.environ)
        if profile.device == "cuda" and choices.task is None and not options.skip_gpu_check:
            with this_gpu_machine(state, {**settings.values, **os.environ}) as machine:
                check_before_run(state, machine, profile_named(choices.profile), os.environ, console)
        settle(state, choices, console, begins=not state.has_begun)
        server = start_server(state.redis, options.redis_url)
        try:
            return _watch_run(state, options, choices, settings.values, server, console)
        finally:
            server.stop()
    finally:
        lock.release()


def _replaced(state: State, options: RunOptions) -> Run | None:
    """Return the run in whose place this start begins another one: at the user's wish, or because of another tag.

    Return None if the run goes on, or if there is none. Raises OptionRefused if the new run can have no such beginning.
    """
    run = run_in(state)
    goes_on = run is None or (options.replace is None and options.researcher.get("TAG", run.tag) == run.tag)
    if not goes_on:
        require_outermost(state)
    if options.from_best and (goes_on or options.replace is Replace.DELETE):
        raise OptionRefused("--from-best begins a run with the best version of the one before", "add --new")
    if options.from_best and run is not None and run.incumbent is None:
        raise OptionRefused(f"run {run.tag} has no version whose score is known", "leave --from-best out")
    return None if goes_on else run


def _settings(state: State, options: RunOptions, replaced: Run | None) -> RunSettings:
    """Return the settings of this start. Where a state has had other runs, a new one gets a tag of its own."""
    begins_beside = replaced is not None or (not state.has_begun and bool(earlier_runs(state)))
    settings = state.settled(given_settings(os.environ, options.researcher), another_run=begins_beside)
    if not begins_beside:
        return settings
    before = state.choices()
    user = options.subject or (None if before is None else state.user_repository(before))
    branches = set() if user is None else UserRepository(user).branches()
    is_deleted = options.replace is Replace.DELETE
    tag = tag_of_another(state, options.researcher.get("TAG"), branches, is_deleted=is_deleted)
    return replace(settings, values={**settings.values, "TAG": tag})


def _begin_another(
    state: State,
    options: RunOptions,
    replaced: Run,
    choices: RunConfig,
    settings: Mapping[str, str],
    console: Console,
) -> None:
    """Make room for another run, whose data are there. Its settings are written at once."""
    require_taken(state.user_repository(choices), choices, state.root)
    settle(state, choices, console, begins=True)
    if options.replace is Replace.DELETE:
        delete(state)
        message = f"run {replaced.tag} is deleted"
    else:
        earlier = set_aside(state)
        message = f"run {replaced.tag} is kept in {earlier.root}"
        if options.from_best:
            assert replaced.incumbent is not None, "`_replaced` refuses a run without one"
            with JournalReader(earlier.journal) as history:
                best = history.experiment(replaced.incumbent)
            begin_with(state.subject, repository_of(earlier), best.commit_sha or replaced.base_commit)
    state.remember(settings)
    console.print(f"{message}; this start begins run {settings['TAG']}", soft_wrap=True)


def given_settings(shell: Mapping[str, str], options: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that options or else the shell's environment give. Files get their absolute names."""
    usable = {key: shell.get(key, "") for key in REMEMBERED if key not in ASKED_BY_OPTION}
    given = {key: value for key, value in usable.items() if value} | dict(options)
    return {
        key: str(Path(value).expanduser().resolve()) if key.endswith("_FILE") else value for key, value in given.items()
    }


def check_options(state: State, options: RunOptions, settings: Mapping[str, str]) -> Settings:
    """Return the settings that the researcher will read. Raises OptionRefused for a bad one, before anything starts."""
    refused = [fault for key, text in settings.items() if (fault := _fault_of(key, text)) is not None]
    if refused:
        raise _refusal(refused)
    given: dict[str, Any] = {name.lower(): None for name in ASKED_BY_OPTION}
    given |= {name.lower(): value for name, value in settings.items()}
    given |= {"redis_url": "redis://", "journal_dir": state.journal, "data_dir": state.data}
    given |= {"subject_dir": state.subject, "profile": options.profile or "cpu", "budget": options.budget}
    given |= dict.fromkeys(("user_repository", "redis_password_file", "own_constants", "own_task"))
    try:
        return Settings(**given)
    except ValidationError as error:
        raise _refusal(faults(error)) from error


def _fault_of(key: str, text: str) -> SettingFault | None:
    form = EndpointModelForm if key == "MODEL" else TABLE[key].written  # not every model is Ollama's
    return replace(TABLE[key], written=form).fault_of(text)


def _refusal(found: Iterable[SettingFault]) -> OptionRefused:
    """Return the error that names the options instead of their keys."""
    named = re.compile(rf"\b({'|'.join([*REMEMBERED, 'BUDGET'])})\b(=?)")
    return OptionRefused(named.sub(_as_option, ". ".join(map(str, found))), "nothing was started")


def _as_option(key: re.Match[str]) -> str:
    return f"--{key[1].lower().replace('_', '-')}{' ' if key[2] else ''}"


def _refuse_what_has_passed(state: State, settings: Settings) -> None:
    """Raise OptionRefused if a limit of a run that has begun has passed."""
    if not state.has_begun:
        return
    with JournalReader(state.journal) as history:
        run = history.run()
        if run is None:
            return
        experiments, trials = history.experiments(), history.trials()
    priced, at = replace(run, prices=settings.prices()), time.time()
    over = exceeded(settings.goal(run.created_at), cost_of(priced, experiments, trials, at - run.created_at), at)
    if over is not None:
        raise OptionRefused(
            f"the limit of this run has passed: {over}; hours and cost count from its first start, "
            f"{moment_text(run.created_at)}",
            "name the end with --until, or more --hours or --max-cost",
        )


def _stop_at_signals() -> None:
    """Make `kill` and a closed terminal stop as cleanly as Ctrl-C; under nohup a closed terminal stops nothing."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, request_stop)


def _lock(state: State) -> WriterLock:
    state.make()
    lock = WriterLock(state.root)
    lock.sign(os.getpid())
    return lock


def _watch_run(
    state: State,
    options: RunOptions,
    choices: RunConfig,
    settings: Mapping[str, str],
    server: RedisServer,
    console: Console,
) -> int:
    profile, before = choices.trial_profile(), state.settings()
    children = [_trainer(state, options, server), _researcher(state, choices, settings, server)]
    has_dry_runs = asks_llm(settings) and choices.task is None
    children += [_dry_run_worker(state, options, server)] if has_dry_runs else []
    state.remember(settings)
    bus = RedisClient(connect(server.url, password=server.password, patient=False))
    with closing(listen_near()) if options.page else nullcontext() as listener:
        page = None
        if listener is not None:
            page = address(port_of(listener))
            children.append(_dashboard(state, server, listener))
            console.print(f"page  {page}", soft_wrap=True)
        with ProcessSupervisor(children, grace_s=STOP_GRACE_S) as supervisor:
            watched = Watched(state, profile, bus, lambda: _keep_alive(server, supervisor), page)
            code = watch(watched, console)
    if code == REFUSED:
        state.remember(before)
    else:
        with JournalReader(state.journal) as history:
            summary(history, profile, state.subject, console, state.user_repository(choices))
    return code


def _keep_alive(server: RedisServer, supervisor: ProcessSupervisor) -> list[ChildStatus]:
    server.revive()
    return supervisor.poll()


def _trainer(state: State, options: RunOptions, server: RedisServer) -> Child:
    argv = _worker(options, server, acl.TRAINER.name, state.data, state.work)
    argv += ["--trials", str(state.trials)]
    return Child(TRAINER, tuple(argv), state.logs / "trainer.log", final_codes=frozenset({REFUSED}))


def _dry_run_worker(state: State, options: RunOptions, server: RedisServer) -> Child:
    """Only candidates of an LLM have a dry run. No exit code of the worker is final: the run continues without it."""
    argv = [*_worker(options, server, acl.DRY_RUN_WORKER.name, state.data, state.dry_runs), "--dry-runs"]
    return Child(
        DRY_RUN_WORKER, ("nice", "-n", "10", *argv), state.logs / "dry-run-worker.log", final_codes=frozenset()
    )


def _worker(options: RunOptions, server: RedisServer, user: str, data: Path, work: Path) -> list[str]:
    argv = python_command("trainer", "--redis", server.url_for(user), "--single-host")
    argv += ["--data", str(data), "--work", str(work), "--candidate-user", AUTO]
    argv += ["--unsafe-local"] if options.unsafe else []
    if (password_file := server.password_file(user)) is not None:
        argv += ["--password-file", str(password_file)]
    return argv


def _dashboard(state: State, server: RedisServer, listener: socket.socket) -> Child:
    """The page. No exit code is final: the run continues without it. The socket listens already, so that no other
    program takes the port before the page starts, or between two starts."""
    env = environment(Program.PYTHON, {"REDIS_URL": server.url_for(acl.DASHBOARD.name)})
    if (password_file := server.password_file(acl.DASHBOARD.name)) is not None:
        env["REDIS_PASSWORD_FILE"] = str(password_file)
    options = ("--state", str(state.root), "--descriptor", str(listener.fileno()))
    return Child(
        DASHBOARD,
        ("nice", "-n", "10", *python_command("services.dashboard", *options)),
        state.logs / "dashboard.log",
        env=env,
        final_codes=frozenset(),
        descriptors=(listener.fileno(),),
    )


def _researcher(state: State, choices: RunConfig, settings: Mapping[str, str], server: RedisServer) -> Child:
    env = environment(Program.RCLONE) | environment(Program.PYTHON, settings)
    env |= {
        "REDIS_URL": server.url_for(acl.RESEARCHER.name),
        "SUBJECT_DIR": str(state.subject),
        "USER_REPOSITORY": str(state.user_repository(choices) or ""),
        "JOURNAL_DIR": str(state.journal),
        "DATA_DIR": str(state.data),
        "PROFILE": choices.profile,
        "BUDGET": str(choices.trial_profile().budget.amount),
        "OWN_SCRIPT": choices.script,
        "OWN_CONSTANTS": "" if choices.constants is None else json.dumps(choices.constants),
        "OWN_TASK": "" if choices.task is None else json.dumps(choices.task),
    }
    if (password_file := server.password_file(acl.RESEARCHER.name)) is not None:
        env["REDIS_PASSWORD_FILE"] = str(password_file)
    return Child(
        RESEARCHER,
        tuple(python_command("researcher")),
        state.logs / "researcher.log",
        env=env,
        final_codes=frozenset({FINISHED, REFUSED}),
    )
