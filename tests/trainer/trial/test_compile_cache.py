"""The baseline's compiled code is given to later trials as a copy of their own, and nothing of a candidate's is."""

from __future__ import annotations

import dataclasses
import re
from importlib import metadata
from pathlib import Path

import pynvml
import pytest

from tests.doubles.nvml import NvmlGpu, NvmlLibrary, install_nvml
from tests.fixtures.trials import CAPS, STEPS, MakeSpec, Run, as_user, miniature
from trainer.jobs import Clock, Kind, Outcome, TrialResult, TrialSpec
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import compile_cache
from trainer.trial.trial import run_trial

PATIENT = dataclasses.replace(STEPS, amount=90, setup_s=600, scoring_s=600)  # for a busy machine, too
SHARES: dict[str, object] = {"trial": "e-0-t0-a1", "kind": Kind.BASELINE, "shares_compiled": True}
TRAINS = """
from prepare import Tokenizer, evaluate_bpb, make_dataloader, progress
import torch
model = torch.nn.Embedding(48, 48)
batches = make_dataloader(Tokenizer.from_directory(), 8, 32, "train")
while progress() < 1:
    next(batches)
evaluate_bpb(model, None, 8)
"""
FOLDERS = """
import os
from pathlib import Path
inductor, triton = (Path(os.environ[name]) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"))
"""
# A script that fills its caches as compilers do.
FILLS = f"""{FOLDERS}
print("began empty:", not triton.exists(), flush=True)
if not triton.exists():  # its replica has them
    (inductor / "ab").mkdir(parents=True)
    (inductor / "ab" / "kernel.so").write_bytes(bytes(range(256)) * 4096)
    triton.mkdir()
    (triton / "kernel.json").write_text("of the baseline")
    (inductor / "elsewhere").symlink_to("/etc/passwd")
    os.mkfifo(triton / "pipe")
{TRAINS}"""
# A candidate that shows its caches, and then changes and adds whatever it can.
SHOWS_AND_SPOILS = f"""{FOLDERS}
import hashlib
found = {{str(path.relative_to(inductor.parent)): path for path in inductor.parent.rglob("*") if path.is_file()}}
hashes = {{name: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for name, path in sorted(found.items())}}
print("began with:", *(f"{{name}}={{hashed}}" for name, hashed in hashes.items()), flush=True)
for path in found.values():
    path.write_text("weights for the next trial")
    path.chmod(0o777)
    os.utime(path, (7, 7))
    os.link(path, f"{{path}}.linked")
(inductor / "planted.py").parent.mkdir(parents=True, exist_ok=True)
(inductor / "planted.py").write_text("weights = 1")
{TRAINS}"""


@pytest.fixture
def spec(data: Path) -> MakeSpec:
    return lambda subject, /, **fields: miniature(data, subject, **{"budget": PATIENT, **fields})


def log_of(result: TrialResult) -> str:
    assert result.log is not None
    return result.log.tail


def began_with(result: TrialResult) -> str:
    assert result.outcome is Outcome.OK, result.reason
    found = re.search(r"began with:(.*)", log_of(result))
    assert found is not None
    return found[1].strip()


@as_user
def test_each_trial_begins_with_the_baselines_caches_whatever_candidates_wrote_to_theirs(
    spec: MakeSpec, run: Run, config: WorkerConfig
) -> None:
    assert began_with(run(spec(SHOWS_AND_SPOILS))) == "", "nothing is there before the baseline"
    assert not config.compiled.exists()

    assert run(spec(FILLS, **SHARES)).outcome is Outcome.OK
    (packed,) = config.compiled.iterdir()
    content = packed.read_bytes()
    first, second = (began_with(run(spec(SHOWS_AND_SPOILS, trial=f"e-{number}-t0-a1"))) for number in (1, 2))

    assert first == second
    assert re.fullmatch(r"inductor/ab/kernel\.so=\w{8} triton/kernel\.json=\w{8}", first), "links and pipes stay away"
    assert packed.read_bytes() == content
    assert list(config.compiled.iterdir()) == [packed]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": Kind.FIRST},
        {"kind": Kind.CONFIRM, "trial": "e-3-t2-a1"},
        {"kind": Kind.BASELINE, "trial": "e-0-t0-a1"},
        {"kind": Kind.DRIFT, "trial": "e-0-t6-a1"},
        {"kind": Kind.MANUAL},
    ],
    ids=lambda fields: str(fields["kind"]),
)
def test_no_other_trial_is_a_source(fields: dict[str, object], spec: MakeSpec, run: Run, config: WorkerConfig) -> None:
    assert run(spec(FILLS, **fields)).outcome is Outcome.OK
    assert not config.compiled.exists()


@pytest.mark.parametrize("fields", [{"kind": Kind.FIRST}, {"kind": Kind.BASELINE, "trial": "e-0-t1-a1"}])
def test_a_spec_cannot_make_another_trial_the_source(fields: dict[str, object], spec: MakeSpec) -> None:
    with pytest.raises(ValueError, match="must not share its compiled code"):
        spec(TRAINS, shares_compiled=True, **fields)


def test_whether_code_is_shared_does_not_change_the_work(spec: MakeSpec) -> None:
    assert spec(TRAINS, **SHARES).digest == spec(TRAINS, **SHARES | {"shares_compiled": False}).digest


def test_a_baseline_that_fails_is_no_source(spec: MakeSpec, run: Run, config: WorkerConfig) -> None:
    assert run(spec(f"{FILLS}\nraise SystemExit(1)\n", **SHARES)).outcome is Outcome.CRASHED
    assert not config.compiled.exists()


def test_the_next_runs_baseline_begins_empty_and_takes_the_place_of_the_last(
    spec: MakeSpec, run: Run, config: WorkerConfig
) -> None:
    run(spec(FILLS, **SHARES))
    other = run(spec(FILLS.replace("of the baseline", "of another run"), **SHARES | {"trial": "f-0-t0-a1"}))

    assert other.outcome is Outcome.OK
    assert "began empty: True" in log_of(other)
    (packed,) = config.compiled.iterdir()
    assert b"of another run" in packed.read_bytes()
    assert b"of the baseline" not in packed.read_bytes()


def test_caches_beyond_the_limit_are_not_kept_and_it_is_said(
    spec: MakeSpec, run: Run, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compile_cache, "MOST_BYTES", 2**20)

    assert run(spec(FILLS, **SHARES)).outcome is Outcome.OK

    assert "later trials compile everything: they are too large" in caplog.text
    assert began_with(run(spec(SHOWS_AND_SPOILS))) == ""


ON_A_GPU = dataclasses.replace(CAPS, vram_mib=9000)
H200, A30 = NvmlGpu("NVIDIA H200", 143771), NvmlGpu("NVIDIA A30", 24576, capability=(8, 0))


@pytest.fixture
def given(spec: MakeSpec, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch) -> TrialSpec:
    """Keep caches on a machine with an H200, as its trainer would, and return the spec of a later trial there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    install_nvml(monkeypatch, NvmlLibrary([H200]))
    inductor = config.folder / "cache" / "inductor"
    inductor.mkdir(parents=True)
    (inductor / "kernel.so").write_bytes(b"compiled")
    compile_cache.keep(spec(TRAINS, caps=ON_A_GPU, **SHARES), config)
    later = spec(TRAINS, caps=ON_A_GPU)
    assert compile_cache.found(later, config, replica=False) is not None
    return later


@pytest.mark.parametrize(
    "library",
    [
        NvmlLibrary([A30]),
        NvmlLibrary([H200], driver="590.44.01"),
        NvmlLibrary([dataclasses.replace(H200, capability=(9, 1))]),
        NvmlLibrary([H200, H200]),
        NvmlLibrary([H200], init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED),
    ],
    ids=["another GPU", "another driver", "another capability", "one more GPU", "no answer"],
)
def test_caches_of_another_gpu_or_driver_are_not_used(
    library: NvmlLibrary, given: TrialSpec, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, library)

    assert compile_cache.found(given, config, replica=False) is None


def test_caches_of_another_torch_are_not_used(
    given: TrialSpec, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cache, "version", lambda name: f"{metadata.version(name)}.other")

    assert compile_cache.found(given, config, replica=False) is None


def test_caches_of_another_processor_are_not_used(
    given: TrialSpec, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cache, "kernel_text", lambda _: "flags\t\t: fpu avx512f\n")

    assert compile_cache.found(given, config, replica=False) is None


def test_compiling_processes_are_bounded() -> None:
    assert compile_cache.threads(Clock.PROCESSOR) == 1, "where processor seconds are the budget"
    assert 1 <= compile_cache.threads(Clock.WALL) <= 8


@pytest.mark.slow
def test_a_later_trial_compiles_nothing_that_the_baseline_compiled(
    spec: MakeSpec, config: WorkerConfig, tmp_path: Path
) -> None:
    """A real compilation by g++, counted by the compiler's own counters: seconds would say nothing here."""
    caps = dataclasses.replace(CAPS, memory_mib=4096, file_mib=1024)

    def compiled(**fields: object) -> tuple[int, int, int]:
        result = run_trial(spec("compiles", budget=PATIENT, caps=caps, **fields), config, lambda _: None, lambda: False)
        assert result.outcome is Outcome.OK, f"{result.reason}\n{log_of(result)}"
        counted = re.search(r"(\d+) graphs, (\d+) found, (\d+) compiled", log_of(result))
        assert counted is not None, log_of(result)
        return int(counted[1]), int(counted[2]), int(counted[3])

    baseline, later = compiled(**SHARES), compiled(kind=Kind.CONFIRM, score_to_beat=0.0)

    graphs, found, missed = baseline
    assert graphs == 2, "of a step and of the evaluation, which was compiled in the uncounted steps"
    assert (found, missed >= graphs) == (0, True)
    assert later == (graphs, missed, 0)
