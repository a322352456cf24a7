"""A replica: a fresh process with the same script, stopped before its first batch, and the weights that were scored.

It is asked questions about the score, drawn after it was known, and its losses are compared with those of the score.
Promises: a candidate that passes computes its logits from its script, its weights and the past of a row alone; nothing
that the first process remembered is there. A replica that recognises what it is and behaves differs from the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.causality import Finding, Questions
from trainer.crossentropy import nats
from trainer.dialogue import Buffers, Dialogue
from trainer.jobs import Outcome
from trainer.launch import Ending
from trainer.verdict import Stop, lost_to_an_accident, signalled
from trainer.wire import Channel, Message, Word

NO_MODULE = "what evaluate_bpb is given must be a torch module that a module-level name holds, alone or as a part"


class ReplicaExam:
    """Its examination, driven by its answers. `finding` is None until all are there."""

    awaits_weights = False

    def __init__(self, channel: Channel, buffers: Buffers, questions: Questions) -> None:
        self._dialogue = Dialogue(channel, buffers)
        self._questions = questions
        self._losses = np.zeros(len(questions.tokens))
        self.finding: Finding | None = None

    def close(self) -> None:
        """Nothing is held."""

    @property
    def share(self) -> float:
        """How far it is, 0..1."""
        return self._dialogue.share

    def begin(self, *, half: bool) -> None:
        """Ask for the first batch, and for one at a time: the next one could show what this one asks for."""
        self._dialogue.half = half
        self._dialogue.ask(self._questions.tokens, at_once=1)

    def served(self, message: Message) -> bool:
        """Take an answer; True when all is compared and the replica was told. Raises Unscorable."""
        answer = self._dialogue.answered(message)
        asked = slice(answer.first, answer.first + len(answer.rows))
        by_row = answer.logits.reshape(len(answer.rows), -1, answer.logits.shape[1])
        compared = by_row[np.arange(len(by_row)), self._questions.positions[asked]]
        self._losses[asked] = nats(compared, self._questions.targets[asked])
        if not self._dialogue.over:
            return False
        self.finding = self._questions.finding(self._losses)
        self._dialogue.channel.send(Message(Word.SCORED))
        return True


@dataclass(frozen=True)
class ReplicaEnded:
    """How a replica ended: why the supervisor ended it, its ending, how long the supervisor itself did not run
    meanwhile, and what the replica said last."""

    stop: Stop | None
    ending: Ending | None
    away_s: float = 0.0
    last_lines: Sequence[str] = ()


def replica_fault(finding: Finding | None, ended: ReplicaEnded) -> Stop | None:
    """Why the candidate's score does not count; None when the replica bears it out.

    A replica that ended by a limit or by a signal may have met with an accident: such a fault is `disturbed`, and the
    researcher has the trial measured once more before it counts.
    """
    stop, ending = ended.stop, ended.ending
    if stop is not None and stop.outcome in (Outcome.PREEMPTED, Outcome.LOST):
        return stop
    if ending is not None and not ending.started:
        return Stop(Outcome.LOST, f"the trainer could not start its replica{_last(ended.last_lines)}")
    lost = lost_to_an_accident(stop, ending, ended.away_s)
    if lost is not None:
        return Stop(Outcome.LOST, f"of its replica: {lost.reason}")
    if stop is not None:
        limit = stop.reason if stop.outcome in (Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY) else None
        return Stop(Outcome.UNSCORABLE, f"its replica cannot be asked: {stop.reason}", limit)
    if finding is None:
        words = f"its replica ended before it was asked{_last(ended.last_lines)}"
        return Stop(Outcome.UNSCORABLE, words, signalled(ending))
    fault = finding.fault
    return None if fault is None else Stop(Outcome.UNSCORABLE, f"a fresh process with its weights differs: {fault}")


def _last(lines: Sequence[str]) -> str:
    return f": {lines[-1].strip()[:300]}" if lines else ""
