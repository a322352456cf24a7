"""`overnight init`: a user's own repository of the known shape becomes the subject of a run, unedited.

In order: read the repository, print the findings, ask for consent, run its prepare.py once in the sandbox, store the
result as the state's data with a stand-in for prepare.py, write the run's choices. Nothing is written before the
consent, and nothing is ever written to the repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from researcher.journal.database import WriterLock
from researcher.repository.repository import EDITABLE, Workspace
from services.adopt.own_data import OtherData, Plan, Repository, held_data, rows_text, sha256_of
from services.adopt.static_values import Surroundings
from services.adopt.subject_check import ShapeRefused
from services.machine.data import prepare_data
from services.machine.gpus import GpuFault, installed_gpus, visible_gpus
from services.machine.state import RunConfig, State, StateError
from services.machine.subject import FIXED
from trainer.data import Manifest, NotPrepared, upgrade, verify
from trainer.data.foreign_prepare import Wanted
from trainer.jobs import Profile, profile_named


@dataclass(frozen=True)
class Init:
    """The options of the user. `readable` are folders that prepare.py may read beside those that its constants name,
    `script` is the name of train.py in the repository."""

    repository: Path
    profile: str
    budget: float | None
    train_rows: int | None
    readable: tuple[Path, ...]
    script: str = EDITABLE


def adopt(state: State, options: Init, agreed: Callable[[str], bool], console: Console) -> Manifest | None:
    """Make the state one of this repository; None if the user said no. Raises StateError or ShapeRefused with one
    sentence."""
    if state.has_begun:
        raise StateError(f"a run has begun in {state.root}", "name another --state for `overnight init`")
    folder = options.repository.resolve()
    repository = Repository(_files(folder, options.script), folder, options.script, options.readable)
    profile = profile_named(options.profile)
    plan = Plan.read(repository, profile, _surroundings(folder, profile), options.train_rows)
    print_findings(plan.found, console)
    budget = options.budget or plan.seconds
    choices = RunConfig(options.profile, budget, str(folder), None, script=options.script)
    held = _held(state)
    if held is not None and plan.made(held):
        state.write(replace(choices, constants=plan.with_vocabulary(held.vocab_size)))
        console.print("nothing to do: its data are here and intact")
        return held
    if not agreed(_question(plan.wanted)):
        return None
    return _take_over(state, plan, choices, console)


def print_findings(lines: Iterable[str], console: Console) -> None:
    """Print each line with an indent: wrapped between words at a terminal, and whole in a pipe."""
    for line in lines:
        if console.is_terminal:
            console.print(Padding.indent(Text(line), 2))
        else:
            console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)


def _surroundings(repository: Path, profile: Profile) -> Surroundings:
    """Return what a script's text is read with. The driver may be silent where the profile was chosen by name."""
    capability = None
    if profile.device != "cpu":
        try:
            there = visible_gpus(installed_gpus(), os.environ)
        except GpuFault:
            there = []
        capability = next((each.capability for each in there), None)
    return Surroundings(repository / FIXED, Path.home(), os.environ, profile.device != "cpu", capability)


def settle_data(state: State, choices: RunConfig, console: Console, unseen: Path | None = None) -> Manifest:
    """Return the data of the run: downloaded and prepared, or as `adopt` made them. Raises StateError if the
    repository's prepare.py has changed since; once a run has begun, the trainer tests this at every trial."""
    if choices.constants is None:
        return prepare_data(choices.trial_profile(), state.data, choices.text_folder(), console, unseen)
    if unseen is not None:
        raise StateError(
            f"the data of {choices.subject} came as tokens, and nothing here can encode a private text",
            "leave --unseen out",
        )
    named = "" if choices.script == EDITABLE else f" --train {choices.script}"
    retry = f"overnight init --subject {choices.subject}{named} --state {state.root}"
    try:
        upgrade(state.data)
        manifest = verify(state.data)
    except NotPrepared as damage:
        raise StateError(
            f"the data of {choices.subject} are damaged", f"restore them or start again: {retry}"
        ) from damage
    if not state.has_begun and sha256_of(_files(Path(choices.subject), choices.script)[FIXED]) != manifest.pinned:
        raise StateError(f"{FIXED} of {choices.subject} is not the one that gave the data", f"take it again: {retry}")
    return manifest


def _files(repository: Path, script: str) -> dict[str, str]:
    if (repository / FIXED).is_file() and not (repository / script).is_file():
        raise ShapeRefused(f"{repository} has a {FIXED} and no {script}; name the script that trains: --train NAME")
    workspace = Workspace(repository, script=script)
    try:
        workspace.require_clean()
        workspace.require_portable(workspace.head())
        return workspace.files(workspace.head())
    finally:
        workspace.close()


def _held(state: State) -> Manifest | None:
    """Return the data of an earlier init, None if there are none or they are damaged. Raises StateError for other
    data."""
    try:
        return held_data(state.data)
    except OtherData as error:
        raise StateError(str(error), "name another --state for `overnight init`") from error


def _question(wanted: Wanted) -> str:
    places = ", ".join(map(str, (wanted.repository, *wanted.readable)))
    return (
        f"Overnight will run {wanted.repository / FIXED} once in its sandbox, to get tokens and their byte lengths. "
        f"The script gets no network, can read only Python's own files and {places}, and leaves nothing behind. Run it?"
    )


def _take_over(state: State, plan: Plan, choices: RunConfig, console: Console) -> Manifest:
    state.make()
    lock = WriterLock(state.root)
    lock.sign(os.getpid())
    try:
        manifest = plan.make(
            state.data,
            console,
            lambda vocab_size: state.write(replace(choices, constants=plan.with_vocabulary(vocab_size))),
        )
    finally:
        lock.release()
    console.print(rows_text(manifest), soft_wrap=True)
    console.print(f"Next: overnight run --state {state.root}", soft_wrap=True)
    return manifest
