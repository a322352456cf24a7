"""The cost of one trial of the default subject under the code of a checkout: `python one_trial.py CHECKOUT DATA LOOK`.

The script runs under the interpreter of that checkout, and imports all measured code from there. Therefore it uses only
names that every version of the code has: `run_trial`, a spec, a result, and the function that runs a replica. LOOK is
`none` for a score that does not count, `plain` for the usual examination, `jump` for that of a great gain. It prints
one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 4
ROWS = 64  # fewer than in a real trial, because only the questions about them are measured


def seconds() -> tuple[float, float]:
    """Return wall seconds, and processor seconds of this process and of all process trees for which it waited."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.monotonic(), sum(part.ru_utime + part.ru_stime for part in parts)


def spec_of(data: Path, look: str) -> Any:
    """Return a trial of a few steps, whose cost is in its start and its scoring."""
    from services.machine.subject import render_subject
    from trainer.jobs import Clock, Kind, TrialSpec, files_digest, profile_named

    profile = profile_named("cpu")
    files = {name: text for name, text in render_subject(profile).items() if name.endswith(".py")}
    kind, number, to_beat = {
        "none": (Kind.FIRST, 0, 0.0),
        "plain": (Kind.MANUAL, 0, None),
        "jump": (Kind.FIRST, 0, 99.0),
    }[look]
    return TrialSpec(
        id=f"b-1-t{number}-a1",
        kind=kind,
        profile=profile.name,
        files=files,
        files_sha256=files_digest(files),
        data_sha256=json.loads((data / "manifest.json").read_text())["digest"],
        seed=1,
        budget=dataclasses.replace(
            profile.budget,
            amount=STEPS,
            clock=Clock.STEPS,
            warmup_steps=0,
            eval_rows=ROWS,
            heldout_rows=0,
            setup_s=300,
            scoring_s=300,
        ),
        caps=profile.caps,
        score_to_beat=to_beat,
    )


def main(checkout: str, data: Path, look: str) -> None:
    """Run the trial and print its costs."""
    sys.path.insert(0, checkout)
    from trainer.sandbox.paths import WorkerConfig
    from trainer.trial import run, trial

    assert Path(run.__file__).is_relative_to(Path(checkout).resolve()), run.__file__
    replica = [0.0, 0.0]
    replicate = run._replicate

    def timed(*given: Any) -> Any:
        began = seconds()
        try:
            return replicate(*given)
        finally:
            replica[:] = [after - before for before, after in zip(began, seconds(), strict=True)]

    run._replicate = timed
    with tempfile.TemporaryDirectory(prefix="overnight-bench-", dir="/var/tmp") as folder:
        (Path(folder) / "trials").mkdir()
        (Path(folder) / "work").mkdir(mode=0o700)
        began = seconds()
        result = trial.run_trial(
            spec_of(data, look),
            WorkerConfig(data, Path(folder) / "trials", Path(folder) / "work"),
            lambda _: None,
            lambda: False,
        )
        ended = seconds()
    assert result.val_bpb is not None, (result.outcome, result.reason)
    assert result.timing is not None
    told = {
        "wall": ended[0] - began[0],
        "processor": ended[1] - began[1],
        "scoring_wall": result.timing.scoring_s,
        "replica_wall": replica[0],
        "replica_processor": replica[1],
        "asked": result.trust.probe_rows if result.trust is not None else None,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve(), sys.argv[3])
