"""A user's prepare.py in the sandbox, and what is made of the numbers that it gives."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.trials import everything_dead
from trainer.data import TextUnusable, verify
from trainer.data.adopted import Adoption, write_adopted
from trainer.data.foreign_prepare import Dumped, DumpFault, Wanted, dump
from trainer.sandbox.landlock import abi

PREPARE = """
import numpy as np

class Array:
    def __init__(self, rows): self.rows = np.array(rows)
    def cpu(self): return self
    def numpy(self): return self.rows

class Tokenizer:
    @classmethod
    def from_directory(cls): return cls()
    def get_vocab_size(self): return 50

def get_token_bytes(): return Array([0] + [1] * 49)

def make_dataloader(tokenizer, B, T, split):
    for epoch in (1, 2):
        for at in range(3):
            rows = np.random.default_rng([at, len(split)]).integers(0, 50, (B, T + 1))
            yield Array(rows[:, :-1]), Array(rows[:, 1:]), epoch
"""
CONTEXT = 4
needs_landlock = pytest.mark.skipif(not abi(), reason="needs a kernel with Landlock")


def wanted(folder: Path, prepare: str = PREPARE, *readable: Path) -> Wanted:
    (folder / "repository").mkdir(exist_ok=True)
    return Wanted(folder / "repository", prepare, readable, CONTEXT, val_rows=40, train_rows=1000)


@needs_landlock
def test_rows_come_once_through_files_of_ours_and_nothing_is_left(tmp_path: Path) -> None:
    told: list[int] = []

    dumped = dump(wanted(tmp_path), tmp_path / "scratch", told.append)

    assert (dumped.vocab_size, dumped.val.stat().st_size, dumped.train.stat().st_size) == (50, 40 * 10, 48 * 10)
    assert not (tmp_path / "scratch" / "work").exists()
    assert everything_dead(tmp_path / "scratch")


TRIES = """
import os, socket
could = []
for name, attempt in {
    "read the home": lambda: open(HOME + "/secret").read(),
    "read the scratch folder": lambda: os.listdir(SCRATCH),
    "write to its repository": lambda: open(REPOSITORY + "/new", "w"),
    "write to what it may read": lambda: open(DATA + "/new", "w"),
    "connect": lambda: socket.create_connection(("127.0.0.1", PORT), timeout=2),
    "call a service": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT)),
}.items():
    try:
        attempt()
    except OSError:
        continue
    could.append(name)
open(DATA + "/text").read()
raise RuntimeError(f"it could {could}")
"""


@needs_landlock
def test_it_reads_what_was_granted_and_neither_reads_writes_nor_reaches_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data = tmp_path / "home", tmp_path / "home" / "data"
    data.mkdir(parents=True)
    (home / "secret").write_text("sesame")
    (data / "text").write_text("to be read")
    monkeypatch.setenv("HOME", str(home))
    with socket.create_server(("127.0.0.1", 0)) as server:
        known = {"HOME": str(home), "SCRATCH": str(tmp_path / "scratch"), "REPOSITORY": str(tmp_path / "repository")}
        known |= {"DATA": str(data), "PORT": server.getsockname()[1]}
        lines = [f"{name} = {value!r}" for name, value in known.items()]

        with pytest.raises(DumpFault, match=r"it could \[\]"):
            dump(wanted(tmp_path, "\n".join(lines) + TRIES, data), tmp_path / "scratch", lambda _: None)


@needs_landlock
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Array(rows[:, 1:])", "Array(rows[:, :-1])", "not the inputs shifted by one"),
        ("integers(0, 50,", "integers(0, 60,", r"gives a token 5\d, its tokenizer has 50"),
        ("return 50", "return 70000", "at most 65536"),
        ("(B, T + 1))", "(B, T))", "gives inputs of shape"),
        ("return cls()", "return open('/nowhere')", "run it first"),
        ("import numpy as np", "import nowhere_to_be_found", "pip install"),
        ("    for epoch", "    while True: print('x' * 999)\n    for epoch", "gave nothing for 0.5 s"),
    ],
    ids=["shift", "token", "vocabulary", "shape", "no downloads", "package", "prints without end"],
)
def test_prepare_that_gives_nothing_usable_is_told_in_one_sentence_and_soon(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(DumpFault, match=said) as refusal:
        dump(
            wanted(tmp_path, PREPARE.replace(old, new)),
            tmp_path / "scratch",
            lambda _: None,
            *((8, 0.5) if "print" in new else (60, 60)),
        )

    assert "\n" not in str(refusal.value)
    assert everything_dead(tmp_path / "scratch")


ADOPTION = Adoption("cpu", "here", "f" * 64, "MAX_SEQ_LEN = 4\n", CONTEXT, val=40, heldout=20)


def given(folder: Path, *, val: int = 90, token: int = 49, table: int = 50) -> Dumped:
    """Raw files as a prepare.py gives them: ten of the scored rows stand in the training rows, ten stand twice."""
    scratch = folder / "private" / "work"
    scratch.mkdir(parents=True)
    random = np.random.default_rng(1)
    train = random.integers(1, 50, (64, CONTEXT + 1)).astype("<u2")
    rows = random.integers(1, 50, (val, CONTEXT + 1)).astype("<u2")
    rows[5:15] = train[5:15]
    rows[20:30] = rows[40:50]
    rows[-1, -1] = token
    dumped = Dumped(scratch / "val.raw", scratch / "train.raw", scratch / "table.raw", 50, 0)
    rows.tofile(dumped.val)
    train.tofile(dumped.train)
    np.array([0, *[2] * (table - 1)], dtype="<i4").tofile(dumped.table)
    return dumped


def test_numbers_become_a_data_folder_without_scored_rows_in_the_training_text(tmp_path: Path) -> None:
    manifest = write_adopted(tmp_path, given(tmp_path), ADOPTION)

    assert verify(tmp_path) == manifest
    assert (manifest.rows, manifest.left_out, manifest.pinned) == (
        {"train": 64, "val": 40, "heldout": 20, "unseen": 20},
        {"val": 20},
        "f" * 64,
    )
    train, val, heldout = (
        {row.tobytes() for row in np.load(tmp_path / name)}
        for name in ("train.npy", "private/val.npy", "private/heldout.npy")
    )
    assert train.isdisjoint(val | heldout)
    assert val.isdisjoint(heldout)
    assert {path.name for path in (tmp_path / "private").iterdir()} == {
        "val.npy",
        "heldout.npy",
        "unseen.npy",
        "secret",
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"val": 50}, "31 usable rows of 5 tokens for val"),
        ({"token": 50}, "gave a token 50, its vocabulary has 50"),
        ({"table": 49}, "49 entries for 50 tokens"),
    ],
)
def test_numbers_that_cannot_score_are_refused(tmp_path: Path, fields: dict[str, int], said: str) -> None:
    with pytest.raises(TextUnusable, match=said):
        write_adopted(tmp_path, given(tmp_path, **fields), ADOPTION)

    assert not (tmp_path / "manifest.json").exists()
