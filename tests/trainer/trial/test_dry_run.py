"""A dry run names the line of an error before it costs a trial, and refuses nothing that is right or doubtful."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from researcher.source.knobs import read_knobs, set_knobs, set_ranges
from tests.fixtures.subject_in_parts import SOURCE
from tests.fixtures.trials import SUBJECTS, MakeSpec, Run, everything_dead
from tests.subjects.broken import BROKEN, FILES, INNOCENT, Broken
from tests.subjects.cheats import HONEST, edited
from tests.subjects.honest import WHOLE_TRIALS, Honest
from trainer.candidate.code_errors import means_wrong_code
from trainer.candidate.protocol import MessageType
from trainer.jobs import PROFILES, DryRunResult, DryRunSpec, DryRunVerdict, Outcome, files_digest
from trainer.jobs.profile import KnobValue, Profile
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import dry_run, supervise
from trainer.trial.dry_run import run_dry_run

TINY_PREPARE = (SUBJECTS / "tiny" / "prepare.py").read_text()
QUICK = ("heads that do not fill the width", "an error after a number was read")
SHORT = dataclasses.replace(dry_run._BUDGET, setup_s=10)

DryRunOf = Callable[..., DryRunResult]


@pytest.fixture
def dry_run_of(config: WorkerConfig) -> DryRunOf:
    """Return a function that runs the dry run of a train.py, for a trial on a processor if nothing else is said."""

    def run(train: str, prepare: str = TINY_PREPARE, profile: str = "cpu", cap_mib: int | None = None) -> DryRunResult:
        files = {"train.py": train, "prepare.py": prepare}
        return run_dry_run(DryRunSpec(profile, files, cap_mib), config, lambda: False)

    return run


def of_profile(config: WorkerConfig, profile: Profile) -> WorkerConfig:
    """With data that has the profile's vocabulary; a dry run reads no more of it."""
    folder = config.work.parent / "data"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"vocab_size": profile.vocab_size, "bos": 0}))
    return dataclasses.replace(config, data=folder)


def default_subject(profile: Profile, **moved: KnobValue) -> dict[str, str]:
    train = set_ranges(set_knobs((SOURCE / "train.py").read_text(), profile.knobs), profile.ranges)
    return {
        "train.py": set_knobs(train, moved),
        "prepare.py": set_knobs((SOURCE / "prepare.py").read_text(), profile.constants),
    }


@pytest.mark.parametrize(
    "broken",
    [pytest.param(broken, id=broken.name, marks=() if broken.name in QUICK else pytest.mark.slow) for broken in BROKEN],
)
def test_broken_edit_is_told_as_the_table_has_it(broken: Broken, config: WorkerConfig) -> None:
    answer = run_dry_run(DryRunSpec("cpu", broken.files), config, lambda: False)

    assert (answer.verdict, broken.says in answer.reason) == (broken.verdict, True), answer.reason
    if answer.verdict is DryRunVerdict.FAILS:
        assert answer.line is not None
        assert (
            f"(line {answer.line}: {broken.files['train.py'].splitlines()[answer.line - 1].strip()})" in answer.reason
        )


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_every_edit_of_the_table_is_broken_in_a_trial(broken: Broken, spec: MakeSpec, run: Run) -> None:
    files = broken.files

    result = run(dataclasses.replace(spec("tiny"), files=files, files_sha256=files_digest(files)))

    assert result.outcome in (Outcome.CRASHED, Outcome.UNSCORABLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", INNOCENT)
def test_innocent_edit_is_never_refused(name: str, dry_run_of: DryRunOf) -> None:
    answer = dry_run_of(INNOCENT[name], FILES["prepare.py"])

    assert answer.verdict is not DryRunVerdict.FAILS, answer.reason


@pytest.mark.slow
@pytest.mark.parametrize("model", WHOLE_TRIALS, ids=lambda model: model.name)
def test_honest_model_passes(model: Honest, dry_run_of: DryRunOf) -> None:
    answer = dry_run_of(model.train, model.prepare)

    assert answer.verdict is DryRunVerdict.PASSES, answer.reason


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_default_subject_passes_and_what_is_too_large_for_certain_fails(name: str, config: WorkerConfig) -> None:
    profile = PROFILES[name]
    there = of_profile(config, profile)
    files = default_subject(profile)

    answer = run_dry_run(DryRunSpec(name, files, profile.caps.vram_mib), there, lambda: False)

    assert answer.verdict is DryRunVerdict.PASSES, answer.reason
    assert answer.parameters is not None
    needed_mib = answer.parameters * (8 if profile.device == "cpu" else 4) / 2**20
    over = run_dry_run(DryRunSpec(name, files, int(needed_mib) - 1), there, lambda: False)
    assert over.verdict is DryRunVerdict.FAILS
    assert (
        f"and their gradients take {needed_mib:.0f} MiB at least; the cap is {int(needed_mib) - 1} MiB" in over.reason
    )


@pytest.mark.slow
def test_every_knob_at_the_ends_of_its_range_passes_or_breaks_the_rule_of_whole_batches(config: WorkerConfig) -> None:
    profile = PROFILES["cpu"]
    there = of_profile(config, profile)
    answers = {}
    for knob in read_knobs(default_subject(profile)["train.py"]).values():
        if knob.range is not None:
            for value in knob.range.choices or (knob.range.low, knob.range.high):
                files = default_subject(profile, **{knob.name: value})
                answers[knob.name, value] = run_dry_run(DryRunSpec("cpu", files), there, lambda: False)

    refused = {at: answer.reason for at, answer in answers.items() if answer.verdict is not DryRunVerdict.PASSES}

    assert len(answers) > 30
    assert all("is not a multiple of DEVICE_BATCH_SIZE" in reason for reason in refused.values()), refused


COMPILED = """import torch

@torch.compile
def one(x):
    return x

@torch.compile(dynamic=False)
def two(x):
    return x
"""
OWN_TIMER = edited(("while progress() < 1:", "while True:"))
NUMBERS = (
    "z = torch.ones(3)\nfloat(z.sum()), int(z[0]), bool(z[0] > 2), z.tolist(), f'{z[0]:.2f}', max(z[0], z[1]), 2 in z\n"
)


@pytest.mark.parametrize(
    "train",
    [
        pytest.param(
            edited(("    model(x, y)", f"    {'; '.join(NUMBERS.splitlines())}\n    model(x, y)")),
            id="asks for numbers in every way",
        ),
        pytest.param(OWN_TIMER, id="has a clock of its own", marks=pytest.mark.slow),
        pytest.param(
            edited(
                (
                    "import torch\n",
                    COMPILED,
                ),
                ("    model(x, y)", "    model.compile()\n    one(two(x))\n    model(x, y)"),
            ),
            id="compiles what it has",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_script_with_other_ways_passes(train: str, dry_run_of: DryRunOf) -> None:
    answer = dry_run_of(train)

    assert answer.verdict is DryRunVerdict.PASSES, answer.reason
    assert answer.parameters is not None


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import sys\nsys.exit('not today')\n", "not today"),
        ("import torch\ntorch.ones(3).nonzero()\n", "DynamicOutputShapeException"),
        ("import torch\ntorch.ones(3).numpy()\n", "numpy"),
        ("import torch\ntorch.ones(3).cuda()\n", "cuda"),
        ("open('nothing')\n", "FileNotFoundError"),
        ("import os\nos._exit(0)\n", "it left before its dry run ended"),
        ("from prepare import evaluate_bpb\nevaluate_bpb(None, None, 1)\n", "before it took a batch"),
        ("x = 1\n", "it ended before it had taken a whole step"),
    ],
    ids=lambda value: value.splitlines()[-1][:30],
)
@pytest.mark.slow
def test_other_ends_are_unknown(train: str, says: str, dry_run_of: DryRunOf) -> None:
    answer = dry_run_of(train)

    assert (answer.verdict, says in answer.reason) == (DryRunVerdict.UNKNOWN, True), answer.reason


FAULTS = [
    ("hangs_in_setup", "did not end within"),
    ("hogs_memory", "the cap is 500 MiB"),
    ("forks_without_end", "processes; the cap is 64"),
    ("leaves_a_daemon", ""),
    ("kills_its_group", "killed by SIGKILL"),
    ("fills_the_disk_with_files", "MiB; the cap is 32 MiB"),
    ("floods_the_log", "log flood"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("subject", "says"), FAULTS)
def test_fault_is_unknown_and_leaves_nothing(
    subject: str, says: str, dry_run_of: DryRunOf, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subject == "hangs_in_setup":  # the others must not be ended by their time, however busy the machine is
        monkeypatch.setattr(dry_run, "_BUDGET", SHORT)
    monkeypatch.setattr(dry_run, "_CAPS", dataclasses.replace(dry_run._CAPS, memory_mib=500))
    monkeypatch.setattr(supervise, "_LOG_LIMIT_BYTES", 2**24)

    answer = dry_run_of((SUBJECTS / f"{subject}.py").read_text())

    assert (answer.verdict, says in answer.reason) == (DryRunVerdict.UNKNOWN, True), answer.reason
    assert everything_dead(config.work)
    assert list(config.work.iterdir()) == []


@pytest.mark.slow
def test_dry_run_shows_no_gpu(dry_run_of: DryRunOf) -> None:
    answer = dry_run_of("import os\nraise SystemExit(f'{os.environ.get(\"CUDA_VISIBLE_DEVICES\")!r} is shown')\n")

    assert "'' is shown" in answer.reason


def test_dry_run_is_left_when_its_worker_is_told_to_stop(config: WorkerConfig) -> None:
    answer = run_dry_run(DryRunSpec("cpu", {"train.py": HONEST}), config, lambda: True)

    assert (answer.verdict, answer.reason) == (DryRunVerdict.UNKNOWN, "the worker was told to stop")


FORGES = """
import os, socket
from trainer.candidate.protocol import ChannelMessage, MessageType
forged = ChannelMessage(MessageType.VERDICT, number=2**32 - 1, x=float("nan"), y=float("inf"), text="fails")
for fd in range(3, 50):
    try:
        socket.socket(fileno=os.dup(fd)).send(forged.pack())
    except OSError:
        pass
print("\\x1b[2Ja lie\\u202e" + "!" * 5000)
os._exit(0)
"""


@pytest.mark.slow
def test_forged_answer_is_an_answer_of_plain_values(dry_run_of: DryRunOf) -> None:
    answer = dry_run_of(FORGES)

    assert (answer.verdict, answer.line, answer.parameters) == (DryRunVerdict.UNKNOWN, None, None), answer.reason
    assert MessageType.VERDICT.name in answer.reason, "the forged message arrived"
    assert len(answer.reason) < 1000
    assert DryRunResult.from_json(json.loads(json.dumps(answer.to_json()))) == answer


class FakesOwn(RuntimeError):
    """An error that torch's fake tensors raise of themselves."""


FakesOwn.__module__ = "torch._subclasses.fake_tensor"


@pytest.mark.parametrize(
    ("code", "processor", "gpu"),
    [
        ("missing\n", True, True),
        ("if False:\n    import kernel\nkernel\n", True, False),
        ("import a_library_that_is_not_here\n", True, False),
        ("raise AssertionError('no heads')\n", True, True),
        ("raise AssertionError('Torch not compiled with CUDA enabled')\n", False, False),
        ("raise RuntimeError('mat1 and mat2 must have the same dtype')\n", False, False),
        ("raise RuntimeError('expected m1 and m2 to have the same dtype, but got')\n", True, False),
        ("raise RuntimeError('shape [4] is invalid for input of size 6')\n", True, True),
        ("raise RuntimeError('a bad day')\n", False, False),
        ("raise TypeError(\"unsupported operand type(s) for +: 'FakeTensor' and 'NoneType'\")\n", True, True),
        ("raise TypeError('must be tuple of ints, but found element of type FakeTensor')\n", False, False),
        ("raise FakesOwn('is invalid for input of size')\n", False, False),
        ("try:\n    raise FakesOwn\nexcept RuntimeError:\n    raise ValueError\n", False, False),
        ("import json\njson.loads('')\n", False, False),
    ],
)
def test_what_may_be_a_fault_of_this_machine_or_of_the_fakes_is_no_wrong_code(
    code: str, processor: bool, gpu: bool, tmp_path: Path
) -> None:
    source = tmp_path / "train.py"
    source.write_text(code)

    with pytest.raises(Exception) as raised:  # noqa: PT011 - of many kinds
        exec(compile(code, str(source), "exec"), {"FakesOwn": FakesOwn})

    told = [means_wrong_code(raised.value, source, on_gpu=on_gpu) for on_gpu in (False, True)]
    assert told == [processor, gpu]
