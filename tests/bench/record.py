"""Real trials of the `cpu` profile over the knobs of the default subject, through the trainer itself, one line each.

After an interruption the same command continues after the last line. A candidate's failure is a line, too; an
infrastructure failure ends the recording. The processor budget and the number of scored rows are smaller than a run's;
the first line states them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from researcher.source.knobs import set_knobs
from services.machine.subject import render_subject
from tests.bench.design import Point, point, searched, start_values
from trainer.jobs import Kind, Profile, TrialResult, TrialSpec, files_digest, profile_named, trial_id
from trainer.sandbox.candidate_user import AUTO, SandboxUser, acquire
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

PROFILE = "cpu"
BUDGET_S = 5
EVAL_ROWS = 128
HELDOUT_ROWS = 1
DESIGN_SEED = 1


def run(file: Path, data: Path, trials: int) -> None:
    """Record until `file` has that many trials."""
    profile = recorded_profile()
    digest = str(json.loads((data / "manifest.json").read_text())["digest"])
    header = _header(profile, digest)
    done = _done(file, header)
    subject = {name: text for name, text in render_subject(profile).items() if name.endswith(".py")}
    with tempfile.TemporaryDirectory(prefix="overnight-record-", dir="/var/tmp") as ground, file.open("a") as lines:
        config, sandbox_user = _config(Path(ground), data.resolve())
        try:
            for number in range(done, trials):
                wanted = point(subject["train.py"], profile.context, DESIGN_SEED, number)
                result = run_trial(_spec(wanted, subject, profile, digest), config, lambda _: None, lambda: False)
                if result.outcome.is_infrastructure:
                    raise SystemExit(f"trial {number} was not measured: {result.reason}; the same command goes on")
                line = _line(wanted, result)
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                print(number, wanted.design, result.outcome, line["val_bpb"], line["wall_s"], flush=True)
        finally:
            sandbox_user.release()


def recorded_profile() -> Profile:
    """Return the profile with smaller numbers, so that hundreds of trials take an evening."""
    profile = profile_named(PROFILE).with_budget(BUDGET_S)
    return replace(
        profile, budget=replace(profile.budget, eval_rows=EVAL_ROWS, heldout_rows=HELDOUT_ROWS, unseen_rows=0)
    )


def _header(profile: Profile, digest: str) -> dict[str, Any]:
    knobs = searched(render_subject(profile)["train.py"])
    return {
        "what": "real trials of the default subject; a line after this one is a trial",
        "profile": profile.name,
        "budget": asdict(profile.budget),
        "context": profile.context,
        "data": digest,
        "design_seed": DESIGN_SEED,
        "start": start_values(knobs),
        "ranges": {name: str(knob.range) for name, knob in knobs.items()},
    }


def _done(file: Path, header: dict[str, Any]) -> int:
    """Return the number of trials in `file`; begin an empty file, and drop an unfinished last line."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = json.dumps(header) + "\n"
    if whole != text:
        file.write_text(whole)
    first, *trials = whole.splitlines()
    if json.loads(first) != header:
        raise SystemExit(f"{file} was recorded with other settings, or other data; record into another file")
    return len(trials)


def _config(ground: Path, data: Path) -> tuple[WorkerConfig, SandboxUser]:
    trials, work = ground / "trials", ground / "work"
    trials.mkdir(mode=0o700)
    work.mkdir(mode=0o700)
    sandbox_user = acquire(work, data, AUTO)
    if sandbox_user.reason is not None:
        print(f"candidates run as ourselves: {sandbox_user.reason}", file=sys.stderr)
    return WorkerConfig(data, trials, work, user=sandbox_user.user), sandbox_user


def _spec(wanted: Point, subject: dict[str, str], profile: Profile, digest: str) -> TrialSpec:
    files = subject | {"train.py": set_knobs(subject["train.py"], wanted.knobs)}
    return TrialSpec(
        id=trial_id("record", wanted.number, 0, 1),
        kind=Kind.FIRST,
        profile=profile.name,
        files=files,
        files_sha256=files_digest(files),
        data_sha256=digest,
        seed=wanted.seed,
        budget=profile.budget,
        caps=profile.caps,
    )


def _line(wanted: Point, result: TrialResult) -> dict[str, Any]:
    timing, device = result.timing, result.device
    return {
        **asdict(wanted),
        "outcome": str(result.outcome),
        "reason": result.reason,
        "val_bpb": result.val_bpb,
        "steps": result.steps,
        "tokens": result.tokens,
        "params_m": result.params_m,
        "wall_s": result.wall_s and round(result.wall_s, 2),
        "processor_s": None if timing is None else round(timing.processor_s, 2),
        "timed_s": None if timing is None or timing.timed is None else round(timing.timed, 2),
        "memory_mib": result.memory_mib and round(result.memory_mib),
        "calibration_s": [result.before_s, result.after_s],
        "device": None if device is None else device.name,
        "torch": None if device is None else device.torch,
    }
