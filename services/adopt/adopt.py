"""`overnight init`: a user's own repository of the known shape becomes the subject of a run, unedited.

In order: read the repository, print the findings, ask for consent, run its prepare.py once in the sandbox, store the
result as the state's data with a stand-in for prepare.py, write the run's choices. Nothing is written before the
consent, and nothing is ever written to the repository.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from researcher.journal.database import WriterLock
from researcher.repository.repository import EDITABLE, Workspace
from services.adopt.stand_in import stand_in
from services.adopt.static_values import Surroundings
from services.adopt.subject_check import NEEDED, Shape, ShapeRefused, inspect
from services.machine.data import prepare_data
from services.machine.gpus import GpuFault, installed_gpus, visible_gpus
from services.machine.state import RunConfig, State, StateError
from services.machine.subject import FIXED
from trainer.data import MANIFEST, Manifest, NotPrepared, upgrade, verify
from trainer.data.adopted import LEAST_ROWS, TEXT, Adoption, write_adopted
from trainer.data.foreign_prepare import DumpFault, Wanted, dump
from trainer.data.manifest import ACCESS, STAND_IN
from trainer.jobs import Profile, profile_named
from trainer.sandbox.visible_paths import Access

MOST_BYTES = 2**30


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
    repository = options.repository.resolve()
    files = _files(repository, options.script)
    shape = inspect(files, _surroundings(repository, profile_named(options.profile)), options.script)
    for line in shape.found:
        console.print(f"  {line}", soft_wrap=True)
    context, seconds = int(shape.constants[NEEDED[0]]), float(shape.constants[NEEDED[1]])
    constants = {"MAX_SEQ_LEN": context, "TIME_BUDGET": max(1, round(seconds))}
    profile = profile_named(options.profile)
    constants |= _eval_rows(shape, profile, console)
    profile = profile.adopted(constants)
    wanted = Wanted(
        repository=repository,
        prepare=files[FIXED],
        readable=(*shape.folders, *(path.resolve() for path in options.readable)),
        context=context,
        val_rows=profile.budget.eval_rows + profile.budget.heldout_rows,
        train_rows=options.train_rows or MOST_BYTES // (2 * (context + 1)),
        environment=shape.variables,
    )
    choices = RunConfig(options.profile, options.budget or seconds, str(repository), None, script=options.script)
    held = _held(state)
    if held is not None and held.source == _source(wanted) and held.pinned == _sha256(files[FIXED]):
        choices = _with(choices, constants, held.vocab_size)
        written = {STAND_IN: _stand_in(shape, choices), ACCESS: _access(shape).to_json().decode()}
        if all(held.sha256.get(name) == _sha256(text) for name, text in written.items()):
            state.write(choices)
            console.print("nothing to do: its data are here and intact")
            return held
    if not agreed(_question(wanted)):
        return None
    return _take_over(state, shape, wanted, profile, choices, constants, console)


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


def _eval_rows(shape: Shape, profile: Profile, console: Console) -> dict[str, int]:
    """Return the number of rows that the user's EVAL_TOKENS scores, if a trial scores at least as many."""
    tokens, most = shape.constants.get("EVAL_TOKENS"), profile.budget.eval_rows
    if not isinstance(tokens, int):
        return {}
    rows = tokens // int(shape.constants[NEEDED[0]])
    if LEAST_ROWS <= rows <= most:
        console.print(f"  scores {rows} rows, as its EVAL_TOKENS say", soft_wrap=True)
        return {"EVAL_ROWS": rows}
    console.print(
        f"  scores {most} rows, and not the {rows} of its EVAL_TOKENS: its own val_bpb is of other rows", soft_wrap=True
    )
    return {}


def _stand_in(shape: Shape, choices: RunConfig) -> str:
    ours = choices.constants or {}
    others = {name: value for name, value in shape.constants.items() if name not in ours}
    return stand_in(ours, others, shape.helpers.source, shape.parameters)


def _access(shape: Shape) -> Access:
    return Access(tuple(map(str, shape.hub.readable)), dict(shape.hub.environment))


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
    retry = f"overnight init --subject {choices.subject} --state {state.root}"
    try:
        upgrade(state.data)
        manifest = verify(state.data)
    except NotPrepared as damage:
        raise StateError(
            f"the data of {choices.subject} are damaged", f"restore them or start again: {retry}"
        ) from damage
    if not state.has_begun and _sha256(_files(Path(choices.subject), choices.script)[FIXED]) != manifest.pinned:
        raise StateError(f"{FIXED} of {choices.subject} is not the one that gave the data", f"take it again: {retry}")
    return manifest


def _files(repository: Path, script: str) -> dict[str, str]:
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
    if not (state.data / MANIFEST).exists():
        return None
    try:
        manifest = verify(state.data)
    except NotPrepared:
        return None
    if manifest.text != TEXT:
        raise StateError(
            f"{state.data} holds other data ({manifest.text})", "name another --state for `overnight init`"
        )
    return manifest


def _question(wanted: Wanted) -> str:
    places = ", ".join(map(str, (wanted.repository, *wanted.readable)))
    return (
        f"{wanted.repository / FIXED} will be run once, without a network, to give tokens and their byte lengths. "
        f"Beside Python it may read {places}, and write nothing that stays. Run it?"
    )


def _take_over(
    state: State,
    shape: Shape,
    wanted: Wanted,
    profile: Profile,
    choices: RunConfig,
    constants: dict[str, int],
    console: Console,
) -> Manifest:
    state.make()
    lock = WriterLock(state.root)
    lock.sign(os.getpid())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as bars:
            task = bars.add_task("rows to train on, at most", total=wanted.train_rows)
            scratch = state.data / "private" / "work"
            dumped = dump(wanted, scratch, lambda rows: bars.update(task, completed=rows))
        choices = _with(choices, constants, dumped.vocab_size)
        (state.data / MANIFEST).unlink(missing_ok=True)
        state.write(choices)
        adoption = Adoption(
            profile=profile.name,
            source=_source(wanted),
            pinned=_sha256(wanted.prepare),
            stand_in=_stand_in(shape, choices),
            access=_access(shape),
            context=wanted.context,
            val=profile.budget.eval_rows,
            heldout=profile.budget.heldout_rows,
        )
        manifest = write_adopted(state.data, dumped, adoption)
    except DumpFault as fault:
        raise ShapeRefused(str(fault)) from fault
    finally:
        lock.release()
    rows = manifest.rows
    console.print(
        f"{rows['train']} rows to train on, {rows['val']} to score on, {rows['heldout']} held out; "
        f"{manifest.left_out['val']} left out that stand in others. Next: overnight run --state {state.root}",
        soft_wrap=True,
    )
    return manifest


def _with(choices: RunConfig, constants: dict[str, int], vocab_size: int) -> RunConfig:
    return replace(choices, constants=constants | {"VOCAB_SIZE": vocab_size})


def _source(wanted: Wanted) -> str:
    return f"{wanted.repository}, at most {wanted.train_rows} rows to train on and {wanted.val_rows} to score on"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
