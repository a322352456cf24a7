"""Supervision of a candidate that says and prints whatever it likes: the result is typed, and plain JSON."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.trials import CONTEXT, VOCAB, miniature
from trainer.candidate.protocol import Channel, ChannelMessage, Layout, MessageType
from trainer.jobs import Calibration, TrialResult
from trainer.jobs.redaction import redaction
from trainer.sandbox.cgroup import OomKills
from trainer.sandbox.launch import ExitReport
from trainer.sandbox.paths import WorkerConfig
from trainer.scoring.exchange import Buffers
from trainer.scoring.rows import ScoringRows
from trainer.scoring.score import ScorePlan, Scoring
from trainer.trial.run import Supervised
from trainer.trial.supervise import Supervisor
from trainer.trial.trial import _Clock, _result

ROWS = ScoringRows(
    val=np.zeros((4, CONTEXT + 1), dtype=np.uint16),
    heldout=np.zeros((2, CONTEXT + 1), dtype=np.uint16),
    unseen=np.zeros((0, CONTEXT + 1), dtype=np.uint16),
    token_bytes=np.ones(VOCAB, dtype=np.int32),
)


class GoneAtOnce:
    """A guarded candidate that has said all and left well before anybody listens."""

    def __init__(self, log: bytes) -> None:
        self.pid = os.getpid()
        self.log_fd, write = os.pipe()
        os.write(write, log[:60_000])
        os.close(write)
        os.set_blocking(self.log_fd, False)
        self.report_fd, write = os.pipe()
        os.close(write)

    def stop(self) -> None:
        """It is gone."""

    def ending(self) -> ExitReport:
        """Well."""
        return ExitReport(0, None, "itself", 1.0, 10.0, 0)

    def close(self) -> None:
        os.close(self.log_fd)
        os.close(self.report_fd)


@contextlib.contextmanager
def watched(data: Path, said: list[bytes], log: bytes) -> Iterator[TrialResult]:
    """The result of a trial whose candidate said and printed this."""
    spec = miniature(data, "tiny")
    ours, theirs = Channel.pair()
    ours.setblocking(False)
    for raw in said:
        with contextlib.suppress(BrokenPipeError):
            theirs.send(raw or b"\0")
    theirs.close()
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))
    scoring = Scoring(Channel(ours), buffers, ROWS, ScorePlan(4, 2, None, lambda _: None))
    guarded = GoneAtOnce(log)
    with tempfile.TemporaryDirectory() as folder:
        config = WorkerConfig(data, Path(folder), Path(folder))
        supervisor = Supervisor(
            spec, guarded, Channel(ours), scoring, lambda _: None, lambda: False, None, redaction([])
        )  # type: ignore[arg-type]
        supervisor.run()
        clock = _Clock(time.time(), time.monotonic())
        yield _result(
            spec,
            config,
            clock,
            Supervised(supervisor, scoring, None, supervisor.stop, OomKills(0, True)),
            Calibration(None, None),
        )
    guarded.close()
    scoring.close()
    buffers.close()
    ours.close()


MESSAGES = st.builds(
    lambda word, number, x, y, text: ChannelMessage(word, number, x, y, text).pack(),
    st.sampled_from(MessageType),
    st.integers(0, 3) | st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 2.0, 4.0]) | st.floats(),
    st.just(0.0) | st.floats(),
    st.text(max_size=30),
)
LINES = st.builds(
    "{}: {}".format,
    st.sampled_from(["val_bpb", "num_steps", "num_params_M", "peak_vram_mb", "step 00001 (5.0%) | loss"]),
    st.floats().map(str) | st.text(max_size=12),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(MESSAGES | st.binary(min_size=128, max_size=128) | st.binary(max_size=200), max_size=6),
    st.lists(LINES, max_size=4),
    st.binary(max_size=200),
)
def test_whatever_a_candidate_says_and_prints_the_result_is_typed_and_plain_json(
    data: Path, said: list[bytes], lines: list[str], noise: bytes
) -> None:
    begun = [ChannelMessage(word).pack() for word in (MessageType.IMPORTED, MessageType.FIRST_BATCH, MessageType.WARM)]
    log = "\n".join(lines).encode(errors="replace") + b"\n" + noise

    with watched(data, [*begun, *said], log) as result:
        text = json.dumps(result.to_json(), allow_nan=False)

    assert TrialResult.from_json(json.loads(text)) == result


def test_message_that_does_not_fit_is_the_candidates_fault_in_a_sentence(data: Path) -> None:
    with watched(data, [ChannelMessage(MessageType.READY, x=float("nan")).pack()], b"") as result:
        assert (result.outcome, result.reason) == (
            "unscorable",
            "it sent READY with numbers that do not fit: 0, nan, 0",
        )
