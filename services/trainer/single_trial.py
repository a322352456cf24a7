"""One trusted trial outside of any run: the trainer's own supervision and scoring, without a queue or a journal."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from researcher.files import read_text
from services.adopt.adopt import settle_data
from services.adopt.task_adoption import settle_task
from services.machine.gpus import machine_profile, require_gpu
from services.machine.installation import require
from services.machine.state import State, StateError
from services.machine.subject import render_subject
from services.views.client import ClientError, is_running
from trainer.jobs import Kind, Outcome, Progress, TrialSpec, files_digest, trial_id
from trainer.sandbox.candidate_user import AUTO, WorkFolderRefused, acquire
from trainer.sandbox.cleanup import NotSwept
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial


def run_single_trial(state: State, file: Path, seed: int, profile_name: str | None, console: Console) -> int:
    """Score `file` as a trial of a run would be scored. Returns 0 if it got a score, else 1. Raises PackageMissing
    without torch."""
    require("torch")
    if is_running(state):
        raise ClientError(
            "a run is going on here and would share the machine", "put the file into it: `overnight submit`"
        )
    choices = state.resolve(profile=profile_name, detect=lambda: machine_profile(os.environ, console.print))
    profile = choices.trial_profile()
    require_gpu(profile, os.environ)
    held = settle_data(state, choices, console) if choices.task is None else settle_task(state, choices)
    files = _files(state.user_repository(choices) or state.subject, file, render_subject(profile))
    attempt = _attempt(state)
    spec = TrialSpec(
        id=trial_id("single-trial", 0, 0, attempt),
        kind=Kind.MANUAL,
        profile=profile.name,
        files=files,
        files_sha256=files_digest(files),
        data_sha256=held.digest,
        seed=seed,
        budget=profile.budget,
        caps=profile.caps,
        repeat=attempt,  # a user who repeats the command wants a new measurement
    )
    state.trials.mkdir(mode=0o700, exist_ok=True)
    try:
        sandbox_user = acquire(state.work, state.data, AUTO)
    except (WorkFolderRefused, NotSwept) as refusal:
        raise ClientError(str(refusal), "then the same command again") from refusal
    if sandbox_user.reason is not None:
        console.print(f"{file.name} runs as root without its rights: {sandbox_user.reason}", soft_wrap=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=1.0)

        def report(progress: Progress) -> None:
            bars.update(task, description=progress.phase, completed=progress.progress)

        config = WorkerConfig(state.data, state.trials, state.work, user=sandbox_user.user)
        try:
            result = run_trial(spec, config, report, lambda: False)
        finally:
            sandbox_user.release()
    console.print(f"{result.outcome}: {result.reason}")
    if result.val_bpb is not None:
        console.print(f"{profile.metric.name}: {profile.metric.text(result.val_bpb)}")
    if result.log is not None:
        console.print(f"log: {state.trials / result.log.path}", soft_wrap=True)
    return 0 if result.outcome is Outcome.OK else 1


def _files(subject: Path, file: Path, default: dict[str, str]) -> dict[str, str]:
    """Return the subject's Python files with `file` in place of train.py."""
    found = {path.name: read_text(path) for path in subject.glob("*.py")} if subject.is_dir() else default
    python = {name: text for name, text in found.items() if name.endswith(".py")}
    try:
        return python | {"train.py": read_text(file)}
    except OSError as error:
        raise StateError(f"cannot read {file} as text: {error}", "name a file of UTF-8 that you can read") from error


def _attempt(state: State) -> int:
    return sum(1 for path in state.trials.glob("single-trial-*") if path.is_dir())
