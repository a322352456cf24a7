"""A tiny data folder in the real format, specs for the miniature subjects, and places for a trial."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from trainer.jobs import Budget, Caps, Clock, Kind, TrialResult, TrialSpec, files_digest
from trainer.launch import GUARDIAN, MARKER
from trainer.trial import Places, run_trial
from trainer.usage import carriers

SUBJECTS = Path(__file__).parent.parent / "subjects"
VOCAB, CONTEXT = 48, 32
STEPS = Budget(
    amount=20,
    clock=Clock.STEPS,
    warmup_steps=0,
    warmup_cap_s=0,
    setup_s=30,
    scoring_s=30,
    eval_rows=20,
    heldout_rows=8,
)
CAPS = Caps(memory_mib=2048, vram_mib=None, processes=64, file_mib=64, log_kib=256)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "private").mkdir(mode=0o700)
    random = np.random.default_rng(3)
    follows = random.integers(1, VOCAB, size=(VOCAB, 3))
    arrays: dict[str, npt.NDArray[np.integer]] = {
        "token_bytes.npy": np.array([0, *random.integers(1, 5, VOCAB - 1)], dtype=np.int32)
    }
    for name, rows in (("train.npy", 64), ("private/val.npy", 24), ("private/heldout.npy", 12)):
        tokens = np.zeros((rows, CONTEXT + 1), dtype=np.uint16)
        for at in range(1, CONTEXT + 1):
            tokens[:, at] = follows[tokens[:, at - 1], random.integers(0, 3, rows)]
        arrays[name] = tokens
    hashes = {}
    for name, array in arrays.items():
        np.save(folder / name, array)
        hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    digest = hashlib.sha256("".join(hashes[name] for name in sorted(hashes)).encode()).hexdigest()
    manifest = {"format": 1, "vocab_size": VOCAB, "context": CONTEXT, "bos": 0, "sha256": hashes, "digest": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def places(tmp_path: Path, data: Path) -> Places:
    (tmp_path / "trials").mkdir()
    (tmp_path / "work").mkdir()
    return Places(data=data, trials=tmp_path / "trials", work=tmp_path / "work", worker="here")


MakeSpec = Callable[..., TrialSpec]


@pytest.fixture
def spec(data: Path) -> MakeSpec:
    """Makes a spec for a miniature subject: a name below tests/subjects, or the text of a train.py."""

    def make(subject: str, /, *, trial: str = "e-1-t1-a1", **fields: object) -> TrialSpec:
        path = SUBJECTS / f"{subject}.py"
        train = path.read_text() if "\n" not in subject and path.exists() else subject
        if subject == "tiny":
            train = (SUBJECTS / "tiny" / "train.py").read_text()
        files = {"train.py": train, "prepare.py": (SUBJECTS / "tiny" / "prepare.py").read_text()}
        whole = TrialSpec(
            id=trial,
            kind=Kind.FIRST,
            profile="cpu",
            files=files,
            files_sha256=files_digest(files),
            data_sha256=json.loads((data / "manifest.json").read_text())["digest"],
            seed=11,
            budget=STEPS,
            caps=CAPS,
        )
        return dataclasses.replace(whole, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def run(places: Places) -> Callable[[TrialSpec], TrialResult]:
    """Runs a trial here, with nobody listening."""
    return lambda spec: run_trial(spec, places, lambda progress: None, lambda: False)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    """Poll until it holds; fail the test when it never does."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, f"waited {timeout_s} s in vain"
        time.sleep(0.02)


def everything_dead(work: Path) -> bool:
    """True when no process carries a marker of this work folder, or names the folder in its command line.

    The folder, not a word: a trial of another test may run beside this one.
    """
    return not carriers([f"{name}={work}/".encode() for name in (MARKER, GUARDIAN)]) and not [
        process for process in Path("/proc").glob("[0-9]*") if f"{work}/".encode() in _command_line(process)
    ]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
