"""Are honest models left alone? Each of tests/subjects/honest.py once as a whole trial with its replica, and many times
through the real server of logits and the real scoring, in this process, with new questions each time.

Bar: no false alarm.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.subjects.honest import HONEST_MODELS, Honest
from tests.trainer.conftest import CAPS, STEPS, miniature, tiny_data
from trainer.causality import Finding
from trainer.dialogue import Buffers, Unscorable
from trainer.jobs import Outcome, files_digest
from trainer.logits import LogitsServer
from trainer.pace import Pace
from trainer.places import Places
from trainer.rows import ScoringRows, read_rows
from trainer.scoring import Plan, Scoring
from trainer.stage import QUESTIONS
from trainer.trial import run_trial
from trainer.wire import Channel, Layout, Message, Word

PATIENT = replace(STEPS, setup_s=300, scoring_s=300, eval_rows=64)  # a compiler takes its time
ROOMY = replace(CAPS, file_mib=1024)


@dataclass
class Seen:
    """What became of one model: its findings, and the reasons of what was refused."""

    trials: int = 0
    findings: list[Finding] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)


def run(scorings: int) -> None:
    """Print the table; exit 1 if an honest model was refused."""
    torch.set_num_threads(1)
    ground = Path(tempfile.mkdtemp(prefix="overnight-bench-", dir="/var/tmp"))
    try:
        data = tiny_data(ground / "data", val_rows=64)
        seen = _all_seen(ground, data, math.ceil(scorings / len(HONEST_MODELS)))
    finally:
        shutil.rmtree(ground)
    alarms = [f"{name}: {reason}" for name, each in seen.items() for reason in each.alarms]
    Console(width=120).print(_table(seen), *alarms, sep="\n")
    if alarms:
        sys.exit(1)


def _all_seen(ground: Path, data: Path, each: int) -> dict[str, Seen]:
    seen = {}
    with Progress(transient=True) as shown:
        task = shown.add_task("honest models", total=len(HONEST_MODELS))
        for number, model in enumerate(HONEST_MODELS):
            shown.update(task, description=model.name)
            seen[model.name] = _whole_trial(model, ground, data, number)
            _in_this_process(model, data, each, seen[model.name])
            shown.advance(task)
    return seen


def _whole_trial(model: Honest, ground: Path, data: Path, number: int) -> Seen:
    folder = ground / str(number)
    (folder / "trials").mkdir(parents=True)
    (folder / "work").mkdir(mode=0o700)
    files = {"train.py": model.train, "prepare.py": model.prepare}
    plain = miniature(data, model.train, trial=f"h-{number}-t0-a1", budget=PATIENT, caps=ROOMY, score_to_beat=99.0)
    spec = replace(plain, files=files, files_sha256=files_digest(files))
    result = run_trial(spec, Places(data, folder / "trials", folder / "work"), lambda _: None, lambda: False)
    passed = result.outcome is Outcome.OK and result.trust is not None and "replica" in (result.trust.probe or "")
    return Seen(trials=1, alarms=[] if passed else [f"whole trial: {result.reason}"])


def _in_this_process(model: Honest, data: Path, times: int, seen: Seen) -> None:
    """The script runs here, with its twenty steps; where it asks for its score it is scored, again and again."""
    rows = read_rows(data, miniature(data, model.train).data_sha256)
    steps = iter(range(int(STEPS.amount)))
    prepare = ModuleType("prepare")
    script = ModuleType("__main__")

    def evaluate_bpb(scored: Any, *_: object) -> float:
        for _ in range(times):
            _scored(scored, rows, seen)
        return 0.0

    sys.modules["prepare"] = prepare  # not by mock, which would take away what a script has imported
    with (
        mock.patch.dict(os.environ, {"OVERNIGHT_DATA": str(data)}),
        mock.patch("builtins.print"),
    ):
        prepare.__file__ = "prepare.py"
        exec(compile(model.prepare, "prepare.py", "exec"), prepare.__dict__)
        prepare.__dict__.update(progress=lambda: 1.0 if next(steps, None) is None else 0.5, evaluate_bpb=evaluate_bpb)
        exec(compile(model.train, "train.py", "exec"), script.__dict__)
    gc.unfreeze()
    gc.enable()
    if times and not (seen.findings or seen.alarms):
        seen.alarms.append("scoring: it never asked for its score")


def _scored(model: Any, rows: ScoringRows, seen: Seen) -> None:
    """One scoring: the model answers in this thread, whose autocast is the script's, the trainer asks in another."""
    layout = Layout.fitting(rows.context, rows.vocab, PATIENT.eval_rows)
    buffers = Buffers(layout)
    ours, theirs = (Channel(end) for end in Channel.pair())
    plan = Plan(PATIENT.eval_rows, QUESTIONS, PATIENT.heldout_rows, weights_fd=None, closer=lambda _: QUESTIONS)
    scoring = Scoring(ours, buffers, rows, plan)
    asking = threading.Thread(target=_ask, args=(ours, scoring, seen))
    asking.start()
    pace = Pace("steps", 1, 0, 0.0, theirs)
    server = LogitsServer(theirs, layout, buffers.inputs_fd, buffers.logits_fd, -1, pace)
    server.evaluate_bpb(model)
    asking.join()
    if scoring.finding is not None:
        seen.findings.append(scoring.finding)
    scoring.close()
    buffers.close()
    for end in (ours, theirs):
        end.end.close()


def _ask(channel: Channel, scoring: Scoring, seen: Seen) -> None:
    ready = channel.receive()
    assert ready is not None
    assert ready.word is Word.READY
    scoring.begin(half=False)
    try:
        while (message := channel.receive()) is not None and not scoring.served(message):
            pass
    except Unscorable as refusal:
        seen.alarms.append(f"scoring: {refusal}")
        channel.send(Message(Word.SCORED))


def _table(seen: dict[str, Seen]) -> Table:
    table = Table(title=f"honest models: {QUESTIONS} questions in each scoring, a replica in each whole trial")
    for name in (
        "model",
        "whole trials",
        "scorings",
        "largest noise",
        "largest change",
        "largest lean",
        "tolerance",
        "false alarms",
    ):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name, each in seen.items():
        found = each.findings
        table.add_row(
            name,
            str(each.trials),
            str(len(found)),
            f"{max(one.noise for one in found):.3g}" if found else "-",
            f"{max(one.change for one in found):.3g}" if found else "-",
            f"{max(one.lean for one in found):.3g}" if found else "-",
            f"{min(one.tolerance for one in found):.3g}" if found else "-",
            str(len(each.alarms)),
            end_section=name == list(seen)[-1],
        )
    trials, scorings = (
        sum(counts) for counts in zip(*((s.trials, len(s.findings)) for s in seen.values()), strict=True)
    )
    table.add_row(
        "all", str(trials), str(scorings), "", "", "", "", str(sum(len(each.alarms) for each in seen.values()))
    )
    return table
