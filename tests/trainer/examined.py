"""The examination without its walls: a script runs in this process, and its model is looked at closely, many times.

Tests and `scripts/bench honest` drive the real server of logits and the real scoring here, and nowhere else: whoever
changes how an examination is put together changes `_look`. Whole trials, with their replicas, are in test_honest.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

import torch

from tests.subjects.honest import Honest
from tests.trainer.conftest import STEPS, miniature
from trainer.candidate.budget_clock import Pace
from trainer.candidate.logits_server import LogitsServer
from trainer.candidate.protocol import Channel, Layout, Message, Word
from trainer.scoring.causality import Finding
from trainer.scoring.cross_entropy import Unscorable
from trainer.scoring.exchange import Buffers
from trainer.scoring.replica import ReplicaExam
from trainer.scoring.rows import ScoringRows, read_rows
from trainer.scoring.score import Plan, Scoring
from trainer.trial.run import QUESTIONS
from trainer.trial.supervise import Examination

BUDGET = replace(STEPS, eval_rows=64)
Exam = TypeVar("Exam", bound=Examination)


@dataclass(frozen=True)
class Look:
    """What one closer look found. `refusal` is why the model was not scored; None for one that was."""

    finding: Finding | None
    refusal: str | None


def closer_looks(model: Honest, data: Path, times: int, seed: int) -> list[Look]:
    """Run the script with its twenty steps from this seed; where it asks for its score, look `times` times.

    Raises what the script raises: a script of the table that does not run is a fault of the table.
    """
    rows = read_rows(data, miniature(data, model.train).data_sha256)
    steps = iter(range(int(STEPS.amount)))
    looks: list[Look] = []

    def evaluate_bpb(scored: Any, *_: object) -> float:
        looks.extend(_look(scored, rows) for _ in range(times))
        return 0.0

    prepare, script = ModuleType("prepare"), ModuleType("__main__")
    with _as_a_script(prepare, data):
        torch.manual_seed(seed)
        exec(compile(model.prepare, "prepare.py", "exec"), prepare.__dict__)
        prepare.__dict__.update(progress=lambda: 1.0 if next(steps, None) is None else 0.5, evaluate_bpb=evaluate_bpb)
        exec(compile(model.train, "train.py", "exec"), script.__dict__)
    assert looks, f"{model.name} never asked for its score"
    return looks


@contextlib.contextmanager
def _as_a_script(prepare: ModuleType, data: Path) -> Iterator[None]:
    """Put `prepare` where a script imports it, and undo what scripts do to their process: they print, warn, set the
    number of threads, and freeze the garbage collector."""
    threads = torch.get_num_threads()
    prepare.__file__ = "prepare.py"
    sys.modules["prepare"] = prepare  # mock.patch.dict would also take away what the script has imported
    try:
        with (
            mock.patch.dict(os.environ, {"OVERNIGHT_DATA": str(data)}),
            mock.patch("builtins.print"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        del sys.modules["prepare"]
        torch.set_num_threads(threads)
        gc.unfreeze()
        gc.enable()


def _look(model: Any, rows: ScoringRows) -> Look:
    """One scoring, and the questions about it, which this process answers in the place of a replica."""
    layout = Layout.fitting(rows.context, rows.vocab, BUDGET.eval_rows)
    plan = Plan(BUDGET.eval_rows, BUDGET.heldout_rows, weights_fd=None, closer=lambda _: QUESTIONS)
    buffers = Buffers(layout)
    try:
        refusal, scoring = examined(model, buffers, lambda channel: Scoring(channel, buffers, rows, plan))
        if refusal is not None:
            return Look(None, refusal)
        asked = scoring.causality.questions(QUESTIONS)
        refusal, replica = examined(model, buffers, lambda channel: ReplicaExam(channel, buffers, asked))
        return Look(replica.finding, refusal or (replica.finding.fault if replica.finding is not None else None))
    finally:
        buffers.close()


def examined(model: Any, buffers: Buffers, examination: Callable[[Channel], Exam]) -> tuple[str | None, Exam]:
    """The model answers in this thread, whose autocast is the script's, the trainer asks in another. Returns why it was
    refused, if it was."""
    ours, theirs = (Channel(end) for end in Channel.pair())
    exam = examination(ours)
    pace = Pace("steps", 1, 0, 0.0, theirs)
    server = LogitsServer(theirs, buffers.layout, buffers.inputs_fd, buffers.logits_fd, -1, pace)
    try:
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(_ask, ours, exam)
            with contextlib.suppress(SystemExit):  # the server's answer to a trainer that is gone; `asking` tells why
                server.evaluate_bpb(model)
            return asking.result(), exam
    finally:
        exam.close()
        ours.end.close()
        theirs.end.close()


def _ask(channel: Channel, exam: Examination) -> str | None:
    """The trainer's side, up to the end of an examination; the refusal if there is one."""
    try:
        ready = channel.receive()
        assert ready is not None
        assert ready.word is Word.READY
        exam.begin(half=False)
        while (message := channel.receive()) is not None and not exam.served(message):
            pass
    except Unscorable as refusal:
        channel.send(Message(Word.SCORED))
        return str(refusal)
    except BaseException:
        channel.end.close()  # nobody waits for an answer that never comes
        raise
    return None
