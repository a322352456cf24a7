"""Whole trials of honest subjects: real processes, real torch, scores recomputed here."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
from textwrap import dedent, indent

import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures.trials import CONTEXT, STEPS, VOCAB, MakeSpec, Run
from tests.subjects.cheats import edited
from trainer.jobs import Clock, Kind, Outcome
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial


def test_honest_trial_is_ok_and_complete(spec: MakeSpec, run: Run, config: WorkerConfig) -> None:
    result = run(spec("tiny", score_to_beat=0.01))

    assert result.outcome is Outcome.OK, result.reason
    assert result.val_bpb is not None
    assert result.heldout_bpb is result.unseen_bpb is None
    assert result.trust is not None
    assert result.trust.printed_agrees
    assert result.trust.probe is None, "it beats nothing, so nothing more is paid for"
    assert (result.steps, result.exit_code, result.worker) == (20, 0, "here")
    assert [point.step for point in result.loss_curve] == list(range(20))
    assert result.timing is not None
    assert result.timing.timed == 20
    assert None not in dataclasses.astuple(result.timing)
    assert result.device is not None
    assert (result.device.kind, result.device.threads) == ("cpu", 1)
    assert result.log is not None
    assert (config.trials / result.log.path).read_text().endswith("num_params_M:     0.002304\n")
    assert list(config.work.iterdir()) == []


def test_how_fast_the_machine_was_is_measured_on_both_sides_of_a_trial(spec: MakeSpec, run: Run) -> None:
    speed = run(spec("tiny")).calibration

    assert speed.before_s is not None
    assert speed.after_s is not None
    assert speed.before_s > 0
    assert speed.after_s > 0


def test_a_trial_that_is_to_make_room_at_once_is_not_followed_by_a_calibration(
    spec: MakeSpec, config: WorkerConfig
) -> None:
    preempted = run_trial(spec("hangs_in_setup"), config, lambda progress: None, lambda: True)

    assert preempted.outcome is Outcome.PREEMPTED
    assert preempted.before_s is not None
    assert preempted.after_s is None


def test_score_is_what_numpy_computes(spec: MakeSpec, run: Run, config: WorkerConfig) -> None:
    result = run(spec("known_table", kind=Kind.BASELINE))

    assert result.val_bpb is not None
    assert result.heldout_bpb is not None
    assert result.val_bpb == pytest.approx(sines_bpb(config, "val", STEPS.eval_rows), abs=1e-6)
    assert result.heldout_bpb == pytest.approx(sines_bpb(config, "heldout", STEPS.heldout_rows), abs=1e-6)
    assert result.unseen_bpb is not None
    assert result.unseen_bpb == pytest.approx(sines_bpb(config, "unseen", STEPS.unseen_rows), abs=1e-6)
    assert result.log is not None
    assert "twice the same: True" in (config.trials / result.log.path).read_text()


def test_first_trial_that_beats_its_score_is_scored_on_the_held_out_rows_and_borne_out_by_a_replica(
    spec: MakeSpec, run: Run, config: WorkerConfig
) -> None:
    result = run(spec("tiny", trial="e-1-t0-a1", score_to_beat=99.0))

    assert result.outcome is Outcome.OK, result.reason
    assert result.heldout_bpb is not None
    assert result.trust is not None
    assert result.trust.probe == "rows asked again of a fresh process"
    places_to_ask = STEPS.eval_rows * (CONTEXT - 1)
    assert result.trust.probe_rows == pytest.approx(7 / 8 * places_to_ask, rel=0.2), "all there are, for it is a jump"
    assert result.probes["change"] == result.probes["noise"] == result.probes["profit"] == 0.0
    assert result.probes["smallest_caught"] < 0.1
    assert list(config.work.iterdir()) == []


@pytest.mark.slow
def test_unedited_upstream_script_is_scored(spec: MakeSpec, run: Run) -> None:
    budget = dataclasses.replace(STEPS, clock=Clock.WALL, amount=0.5, warmup_steps=10, warmup_cap_s=20)

    result = run(spec("own/train", budget=budget))

    assert result.outcome is Outcome.OK, result.reason
    assert result.trust is not None
    assert result.trust.printed_agrees
    assert result.timing is not None
    assert result.timing.timed == pytest.approx(0.5, abs=2)
    assert result.steps is not None
    assert len(result.loss_curve) <= 200


def test_processor_seconds_are_the_budget_on_a_shared_machine(spec: MakeSpec, run: Run) -> None:
    result = run(spec("tiny", budget=dataclasses.replace(STEPS, clock=Clock.PROCESSOR, amount=0.4)))

    assert result.outcome is Outcome.OK, result.reason
    assert result.timing is not None
    assert result.timing.timed == pytest.approx(0.4, abs=0.2)


def test_seed_is_imposed_on_a_script_that_sets_its_own(spec: MakeSpec, run: Run) -> None:
    result = run(spec("seeds_itself", seed=5))

    assert result.log is not None
    first, second = [line.split()[1:] for line in result.log.tail.splitlines() if line.startswith("drew")]
    assert first == second
    assert float(first[0]) == random.Random(5).random()
    assert float(first[1]) == np.random.RandomState(5).rand()


def test_stored_result_is_given_again_without_running(spec: MakeSpec, run: Run) -> None:
    first = run(spec("crashes_at_import"))

    assert run(spec("crashes_at_import")) == first
    assert first.log is not None
    assert 'raise RuntimeError("there is no such layer")' in first.log.tail
    assert "runner.py" not in first.log.tail


def test_secret_of_the_trainer_is_in_nothing_that_is_kept_or_told(spec: MakeSpec, config: WorkerConfig) -> None:
    prints = "print('the password is bicycle-42', flush=True)\nraise SystemExit(3)\n"

    result = run_trial(
        spec(prints), dataclasses.replace(config, secrets=("bicycle-42",)), lambda _: None, lambda: False
    )

    assert result.reason == "exit code 3: the password is [redacted]"
    assert "bicycle" not in str(result.to_json())
    assert [file.name for file in config.trials.rglob("*") if file.is_file() and b"bicycle" in file.read_bytes()] == []


def test_other_data_is_a_fault_of_the_machine_and_is_not_replayed(spec: MakeSpec, run: Run) -> None:
    lost = run(spec("crashes_at_import", data_sha256="0" * 64))

    assert lost.outcome is Outcome.LOST
    assert "overnight prepare" in lost.reason
    assert run(spec("crashes_at_import", data_sha256="0" * 64)).started_at > lost.started_at


def test_changed_validation_rows_are_noticed(spec: MakeSpec, config: WorkerConfig, data: object) -> None:
    copy = shutil.copytree(config.data, config.work.parent / "data")
    np.save(copy / "private" / "val.npy", np.zeros((24, 33), dtype=np.uint16))

    result = run_trial(spec("tiny"), dataclasses.replace(config, data=copy), lambda progress: None, lambda: False)

    assert result.outcome is Outcome.LOST
    assert "val.npy" in result.reason


def sines_bpb(config: WorkerConfig, split: str, count: int) -> float:
    """The bits per byte of tests/subjects/known_table.py, by its definition in double precision."""
    rows: npt.NDArray[np.int64] = np.load(config.data / "private" / f"{split}.npy")[:count].astype(np.int64)
    weights = np.load(config.data / "token_bytes.npy")[rows[:, 1:]]
    angles = np.arange(VOCAB * VOCAB, dtype=np.float32).astype(np.float64)
    logits = np.sin(angles).reshape(VOCAB, VOCAB)[rows[:, :-1]]
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(logs, rows[:, 1:, None], axis=-1)[..., 0]
    return float(losses[weights > 0].sum() / (math.log(2) * weights.sum()))


_TELLS = {
    "an exception": "raise SystemExit('asked: ' + said)",
    "lines": """
        print(said)
        print(f"step 00001 (1.0%) | loss: {float(x[0, 1])}\\nnum_params_M: {said}", flush=True)
    """,
    "a message": """
        import gc
        from trainer.candidate.protocol import Channel, ChannelMessage, MessageType
        channel = next(each for each in gc.get_objects() if isinstance(each, Channel))
        channel.send(ChannelMessage(MessageType.FAULT, text=said))
        raise SystemExit(1)
    """,
}


@pytest.mark.parametrize("how", [pytest.param(how, marks=pytest.mark.slow if how == "lines" else ()) for how in _TELLS])
def test_nothing_of_what_scores_it_can_be_told_to_a_model(
    how: str, spec: MakeSpec, run: Run, config: WorkerConfig
) -> None:
    tells = indent(f"said = ' '.join(map(str, x[0].tolist()))\n{dedent(_TELLS[how])}\n", " " * 12)
    source = edited(("        if y is None:\n", f"        if y is None:\n{tells}"))

    result = run(spec(source))

    rows = np.load(config.data / "private" / "val.npy")[:, :-1]
    asked = [" ".join(map(str, row[:8])) for row in rows]
    assert result.log is not None
    assert not any(row in str(result.to_json()) for row in asked)
    assert [point.step for point in result.loss_curve] == []
    if how != "a message":
        assert any(row in (config.trials / result.log.path).read_text() for row in asked), "people can read it"
