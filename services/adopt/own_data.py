"""The data of a user's own repository: planned from what was read, and made by its prepare.py in the sandbox.

It needs no git and no state folder, because the container that prepares data has neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.adopt.stand_in import stand_in
from services.adopt.static_values import Surroundings
from services.adopt.subject_check import NEEDED, Shape, ShapeRefused, inspect
from trainer.data import MANIFEST, Manifest, NotPrepared, verify
from trainer.data.adopted import LEAST_ROWS, TEXT, Adoption, write_adopted
from trainer.data.foreign_prepare import DumpFault, Wanted, dump
from trainer.data.manifest import ACCESS, STAND_IN
from trainer.jobs import Profile
from trainer.sandbox.visible_paths import Access

MOST_BYTES = 2**30


@dataclass(frozen=True)
class Repository:
    """A user's repository: its Python files as trials get them, its folder, and its name of train.py.

    `readable` are folders that prepare.py may read beside those that its constants name.
    """

    files: dict[str, str]
    folder: Path
    script: str = "train.py"
    readable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What prepare.py is to give, and what becomes of it. `seconds` is the user's TIME_BUDGET.

    `constants` are those that the profile takes from prepare.py, without the size of the vocabulary.
    """

    shape: Shape
    wanted: Wanted
    profile: Profile
    seconds: float
    constants: dict[str, int]
    found: tuple[str, ...]

    @classmethod
    def read(
        cls, repository: Repository, profile: Profile, around: Surroundings, train_rows: int | None = None
    ) -> Plan:
        """Read a repository. Raises ShapeRefused."""
        shape = inspect(repository.files, around, repository.script)
        context, seconds = int(shape.constants[NEEDED[0]]), float(shape.constants[NEEDED[1]])
        rows, line = _eval_rows(shape, profile)
        constants = {"MAX_SEQ_LEN": context, "TIME_BUDGET": max(1, round(seconds)), **rows}
        if shape.uncounted_steps is not None:
            constants["UNCOUNTED_STEPS"] = shape.uncounted_steps
        adopted = profile.adopted(constants)
        others = (path.resolve() for path in repository.readable)
        wanted = Wanted(
            repository=repository.folder,
            prepare=repository.files[STAND_IN],
            readable=tuple(dict.fromkeys((*shape.folders, *others))),
            context=context,
            val_rows=adopted.budget.eval_rows + adopted.budget.heldout_rows,
            train_rows=train_rows or MOST_BYTES // (2 * (context + 1)),
            environment=shape.variables,
        )
        return cls(shape, wanted, adopted, seconds, constants, (*shape.found, *line))

    @property
    def source(self) -> str:
        """The description of the data in their manifest."""
        wanted = self.wanted
        return f"{wanted.repository}, at most {wanted.train_rows} rows to train on and {wanted.val_rows} to score on"

    def made(self, held: Manifest) -> bool:
        """Return whether these data are the plan's."""
        if (held.source, held.pinned) != (self.source, sha256_of(self.wanted.prepare)):
            return False
        written = {STAND_IN: self._stand_in(held.vocab_size), ACCESS: self._access().to_json().decode()}
        return all(held.sha256.get(name) == sha256_of(text) for name, text in written.items())

    def with_vocabulary(self, size: int) -> dict[str, int]:
        """Return all constants that the profile takes."""
        return self.constants | {"VOCAB_SIZE": size}

    def make(self, folder: Path, console: Console, before_writing: Callable[[int], None]) -> Manifest:
        """Run prepare.py and write the data folder. `before_writing` gets the size of the vocabulary.

        Raises ShapeRefused, and TextUnusable for data that cannot score.
        """
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
            task = bars.add_task("rows to train on, at most", total=self.wanted.train_rows)
            try:
                scratch = folder / "private" / "work"
                dumped = dump(self.wanted, scratch, lambda rows: bars.update(task, completed=rows))
            except DumpFault as fault:
                raise ShapeRefused(str(fault)) from fault
        before_writing(dumped.vocab_size)
        (folder / MANIFEST).unlink(missing_ok=True)
        adoption = Adoption(
            profile=self.profile.name,
            source=self.source,
            pinned=sha256_of(self.wanted.prepare),
            stand_in=self._stand_in(dumped.vocab_size),
            access=self._access(),
            constants=self.with_vocabulary(dumped.vocab_size),
            context=self.wanted.context,
            val=self.profile.budget.eval_rows,
            heldout=self.profile.budget.heldout_rows,
        )
        return write_adopted(folder, dumped, adoption)

    def _stand_in(self, vocab_size: int) -> str:
        constants, shape = self.with_vocabulary(vocab_size), self.shape
        others = {name: value for name, value in shape.constants.items() if name not in constants}
        return stand_in(constants, others, shape.helpers.source, shape.parameters)

    def _access(self) -> Access:
        return Access(tuple(map(str, self.shape.hub.readable)), dict(self.shape.hub.environment))


class OtherData(Exception):
    """The folder holds data that come from no prepare.py of a user. The message says which."""


def held_data(folder: Path) -> Manifest | None:
    """Return the data of an earlier adoption, None if there are none or they are damaged. Raises OtherData."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        manifest = verify(folder)
    except NotPrepared:
        return None
    if manifest.text != TEXT:
        raise OtherData(f"{folder} holds other data ({manifest.text})")
    return manifest


def rows_text(manifest: Manifest) -> str:
    """Return the numbers of rows as text."""
    rows = manifest.rows
    return (
        f"{rows['train']} rows to train on, {rows['val']} to score on, {rows['heldout']} held out; "
        f"{manifest.left_out['val']} left out, because others hold them, too"
    )


def sha256_of(text: str) -> str:
    """Return the hash of a text in UTF-8, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _eval_rows(shape: Shape, profile: Profile) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the number of rows that the user's EVAL_TOKENS scores, if a trial scores at least as many, and a line."""
    tokens, most = shape.constants.get("EVAL_TOKENS"), profile.budget.eval_rows
    if not isinstance(tokens, int):
        return {}, ()
    rows = tokens // int(shape.constants[NEEDED[0]])
    if LEAST_ROWS <= rows <= most:
        return {"EVAL_ROWS": rows}, (f"a trial scores {rows} rows, as EVAL_TOKENS of prepare.py says",)
    return {}, (f"a trial scores {most} rows, and not the {rows} of its EVAL_TOKENS: its own val_bpb is of other rows",)
