"""A tiny data folder in the real format, specs for the miniature subjects, and places for a trial.

A test that takes `as_user` runs as candidates do in local mode and again as in a container, under a uid of their own;
its folders then lie where that uid may go, which pytest's own do not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from trainer.jobs import Budget, Caps, Clock, Kind, TrialResult, TrialSpec, files_digest
from trainer.sandbox.launch import GUARDIAN, MARKER, User
from trainer.sandbox.paths import Places
from trainer.sandbox.usage import carriers
from trainer.trial.trial import run_trial

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
    unseen_rows=6,
)
CAPS = Caps(memory_mib=2048, vram_mib=None, processes=64, file_mib=64, log_kib=256)


as_user = pytest.mark.parametrize(
    "user", ["same-uid", pytest.param("other-uid", marks=pytest.mark.slow)], indirect=True
)
as_other_user = pytest.mark.parametrize("user", ["other-uid"], indirect=True)


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder that every uid may enter."""
    folder = Path(tempfile.mkdtemp(prefix="overnight-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stranger(ground: Path) -> tuple[User, Path]:
    """A user for candidates that no other test run has, and this interpreter where that user can start it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: only root can start a process under another uid")
    uid = 60_000 + os.getpid() % 5_000
    user = User(uid, uid)
    python = interpreter_for(user, ground)
    if python is None:
        pytest.skip(f"needs packages and a checkout that uid {user.uid} can read")
    return user, python


@pytest.fixture
def user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> User | None:
    """Who candidates run as; None is as ourselves."""
    if getattr(request, "param", "same-uid") == "same-uid":
        return None
    stranger, python = request.getfixturevalue("stranger")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("LD_LIBRARY_PATH", library_path(python))
    return User(stranger.uid, stranger.gid)


@pytest.fixture(scope="session")
def data(ground: Path) -> Path:
    return tiny_data(ground / "data")


def tiny_data(folder: Path, val_rows: int = 24, vocab: int = VOCAB) -> Path:
    """In the real format, readable for every uid but for what scores."""
    folder.mkdir()
    (folder / "private").mkdir(mode=0o700)
    random = np.random.default_rng(3)
    follows = random.integers(1, vocab, size=(vocab, 3))
    arrays: dict[str, npt.NDArray[np.integer]] = {
        "token_bytes.npy": np.array([0, *random.integers(1, 5, vocab - 1)], dtype=np.int32)
    }
    for name, rows in (
        ("train.npy", 64),
        ("private/val.npy", val_rows),
        ("private/heldout.npy", 12),
        ("private/unseen.npy", 10),
    ):
        tokens = np.zeros((rows, CONTEXT + 1), dtype=np.uint16)
        for at in range(1, CONTEXT + 1):
            tokens[:, at] = follows[tokens[:, at - 1], random.integers(0, 3, rows)]
        arrays[name] = tokens
    hashes = {}
    for name, array in arrays.items():
        np.save(folder / name, array)
        hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    digest = hashlib.sha256("".join(hashes[name] for name in sorted(hashes)).encode()).hexdigest()
    manifest = {"format": 2, "vocab_size": vocab, "context": CONTEXT, "bos": 0, "sha256": hashes, "digest": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def places(ground: Path, data: Path, user: User | None) -> Places:
    folder = Path(tempfile.mkdtemp(dir=ground))  # short: a unix socket's path has 107 characters at most
    folder.chmod(0o755)
    (folder / "trials").mkdir()
    (folder / "work").mkdir(mode=0o700)
    if user is not None:
        os.chown(folder / "work", user.uid, user.gid)
    return Places(data=data, trials=folder / "trials", work=folder / "work", worker="here", user=user)


MakeSpec = Callable[..., TrialSpec]
Run = Callable[[TrialSpec], TrialResult]


@pytest.fixture
def spec(data: Path) -> MakeSpec:
    """Makes a spec for a miniature subject: a name below tests/subjects, or the text of a train.py."""

    return lambda subject, /, **fields: miniature(data, subject, **fields)


def miniature(data: Path, subject: str, /, *, trial: str = "e-1-t1-a1", **fields: object) -> TrialSpec:
    """A name below tests/subjects, or the text of a train.py; twenty steps, small caps."""
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


@pytest.fixture
def run(places: Places) -> Run:
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


def interpreter_for(user: User, ground: Path) -> Path | None:
    """This interpreter where that user can start it: where it lies, or linked below `ground`."""
    python = Path(sys.executable)
    if not _can_start(user, python):
        python = _linked_interpreter(ground / "python")
    return python if _can_start(user, python) else None


def _can_start(user: User, python: Path) -> bool:
    """True when a process of that user can import what a candidate does."""
    try:
        done = subprocess.run(
            [python, "-c", "import numpy, trainer.candidate.runner"],
            check=False,
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            env={"LD_LIBRARY_PATH": library_path(python)},
            stderr=subprocess.DEVNULL,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def library_path(python: Path) -> str:
    """Where a linked interpreter finds its own libpython; its file names the folder it was linked from."""
    return str(python.parent.parent / "lib")


def _linked_interpreter(folder: Path) -> Path:
    """This interpreter under another name, without its tests: it may lie in the home of root."""
    library = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}")
    skipped = shutil.ignore_patterns("test", "site-packages")
    shutil.copytree(Path(sys.base_prefix, library), folder / library, copy_function=_link, ignore=skipped)
    for shared in Path(sys.base_prefix, "lib").glob("libpython*"):
        _link(shared, folder / "lib" / shared.name)
    (folder / library / "site-packages").mkdir()
    (folder / library / "site-packages" / "installed.pth").write_text("\n".join(site.getsitepackages()))
    (folder / "bin").mkdir()
    _link(Path(sys.executable).resolve(), folder / "bin" / "python")
    return folder / "bin" / "python"


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
