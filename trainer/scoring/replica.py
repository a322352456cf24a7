"""The examination of a replica: a fresh process with the same script and the weights that were scored.

The replica's script stops before its first batch. The replica gets questions that were drawn after the score was known,
and its losses are compared with those of the score. Promises: a candidate that passes computes its logits from its
script, its weights and the past of a row alone, because a fresh process remembers nothing else. A replica that detects
its role and answers honestly differs from a dishonest score.
"""

from __future__ import annotations

import numpy as np

from trainer.candidate.protocol import Channel, ChannelMessage, MessageType
from trainer.scoring.causality import CausalityFinding, Questions
from trainer.scoring.cross_entropy import nats
from trainer.scoring.exchange import Buffers, LogitsExchange


class ReplicaExam:
    """The examination of a replica. `finding` is None until all answers are there."""

    awaits_weights = False

    def __init__(self, channel: Channel, buffers: Buffers, questions: Questions) -> None:
        self._exchange = LogitsExchange(channel, buffers)
        self._questions = questions
        self._losses = np.zeros(len(questions.tokens))
        self.finding: CausalityFinding | None = None

    def close(self) -> None:
        """Do nothing, because nothing is open."""

    @property
    def share(self) -> float:
        """The progress, 0..1."""
        return self._exchange.share

    def begin(self, *, half: bool) -> None:
        """Ask for the first batch. Only one batch is sent at a time, because a second could reveal answers."""
        self._exchange.half = half
        self._exchange.ask(self._questions.tokens, at_once=1)

    def served(self, message: ChannelMessage) -> bool:
        """Take an answer. After the last one, set `finding`, tell the replica and return True. Raise Unscorable."""
        answer = self._exchange.answered(message)
        asked = slice(answer.first, answer.first + len(answer.rows))
        by_row = answer.logits.reshape(len(answer.rows), -1, answer.logits.shape[1])
        compared = by_row[np.arange(len(by_row)), self._questions.positions[asked]]
        self._losses[asked] = nats(compared, self._questions.targets[asked])
        self._exchange.proceed(answer)
        if not self._exchange.over:
            return False
        self.finding = self._questions.finding(self._losses)
        self._exchange.channel.send(ChannelMessage(MessageType.SCORED))
        return True
