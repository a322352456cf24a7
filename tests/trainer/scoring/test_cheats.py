"""No candidate can fake its score: every cheat of tests/subjects/cheats.py, as a real trial that beats its score."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from textwrap import dedent

import pytest

from tests.fixtures.trials import MakeSpec, Run, everything_dead, miniature, tiny_data
from tests.subjects.cheats import BUDGET, CHEATS, HONEST, Cheat, edited
from trainer.jobs import PROFILES, Clock, Kind, Outcome, Profile, TrialSpec, files_digest
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

FIRST = {"trial": "e-1-t0-a1", "kind": Kind.FIRST, "score_to_beat": 99.0}


@pytest.fixture(scope="session")
def data(ground: Path) -> Path:
    """More rows than elsewhere: a look-ahead at few positions is to be met."""
    return tiny_data(ground / "data-for-cheats", val_rows=64)


@pytest.fixture(scope="module")
def honest(data: Path, ground: Path) -> float:
    """What the script that all cheats start from scores."""
    config = WorkerConfig(data, ground / "honest" / "trials", ground / "honest" / "work")
    for folder in (config.trials, config.work):
        folder.mkdir(parents=True)
    spec = miniature(data, HONEST, **{**FIRST, "budget": BUDGET})
    result = run_trial(spec, config, lambda _: None, lambda: False)
    assert result.val_bpb is not None, result
    return result.val_bpb


def of(cheat: Cheat, spec: MakeSpec) -> TrialSpec:
    """Its trial."""
    plain = spec(cheat.subject, **{**FIRST, "budget": BUDGET, **cheat.fields})
    files = {**plain.files, **cheat.files}
    return dataclasses.replace(plain, files=files, files_sha256=files_digest(files))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_no_profile_lets_slow_first_steps_earn_more_than_a_third(profile: Profile) -> None:
    assert profile.budget.warmup_cap_s <= profile.budget.amount / 3


@pytest.mark.slow
def test_nothing_that_a_candidate_does_to_its_weights_file_reaches_its_replica(spec: MakeSpec, run: Run) -> None:
    """The replica ends at once if it finds a note: an offset is one that any process can leave."""
    note = """
        import os
        given = next(fd for fd in range(3, 64) if "memfd:weights" in os.path.realpath(f"/proc/self/fd/{fd}"))
        if os.lseek(given, 0, os.SEEK_CUR) == 777:
            raise SystemExit("it remembers")
    """
    start = "import torch.nn.functional as F\n"
    asked = "        if y is None:\n            return logits\n"
    leave = "        if y is None:\n            os.lseek(given, 777, os.SEEK_SET)\n            return logits\n"
    train = HONEST.replace(start, start + dedent(note)).replace(asked, leave)
    assert train.count("777") == 2

    result = run(spec(train, **{**FIRST, "budget": BUDGET}))

    assert result.outcome is Outcome.OK, result.reason


@pytest.mark.slow
def test_a_candidate_cannot_tell_which_of_its_experiments_trials_it_is(spec: MakeSpec, run: Run) -> None:
    tells = "import os\nprint(os.getcwd(), dict(os.environ), open('/proc/self/cmdline').read())\n"

    first, later = (run(spec(tells, trial=f"e-1-t{number}-a1")).log for number in (0, 3))

    assert first is not None
    assert later is not None
    assert first.tail == later.tail


@pytest.mark.slow
def test_slow_first_steps_earn_no_more_than_the_warm_up_may_last(spec: MakeSpec, run: Run) -> None:
    slow = edited(("def learn():\n", "import time\n\n\ndef learn():\n    time.sleep(0.5)\n"))
    budget = dataclasses.replace(BUDGET, clock=Clock.WALL, amount=1, warmup_steps=10, warmup_cap_s=2)

    result = run(spec(slow, **{**FIRST, "budget": budget}))

    assert result.outcome is Outcome.OK, result.reason
    assert result.timing is not None
    assert result.timing.warmup_s == pytest.approx(2, abs=1), "ten such steps take five seconds"
    assert result.steps is not None
    assert result.steps < 10


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(cheat, id=cheat.name, marks=() if cheat.quick else pytest.mark.slow)
        for cheat in CHEATS
        if cheat.says is not None
    ],
)
def test_a_cheat_is_refused(cheat: Cheat, spec: MakeSpec, run: Run, config: WorkerConfig) -> None:
    result = run(of(cheat, spec))

    assert (result.outcome, result.val_bpb, result.heldout_bpb) == (cheat.outcome, None, None), (
        result.reason,
        result.log,
    )
    assert cheat.says is not None
    assert cheat.says in result.reason, result.log
    assert everything_dead(config.work)
    assert list(config.work.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("cheat", [pytest.param(cheat, id=cheat.name) for cheat in CHEATS if cheat.says is None])
def test_a_cheat_scores_what_it_is_worth(cheat: Cheat, spec: MakeSpec, run: Run, honest: float) -> None:
    result = run(of(cheat, spec))

    if cheat.worse:
        assert result.outcome in (Outcome.OK, Outcome.UNSCORABLE), result.reason
        assert result.val_bpb is None or result.val_bpb > honest - 1e-4
    else:
        assert result.outcome is Outcome.OK, (result.reason, result.log)
        assert result.val_bpb is not None
        assert result.val_bpb == honest
        assert result.trust is not None
        assert result.trust.probe == "rows asked again of a fresh process"
