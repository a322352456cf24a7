"""An LLM that knows nothing, for real runs: its edits are habitual moves, its advice is a uniform draw of the knobs.

It reads only the code in the question. It shows the cost of an uninformed answer, and nothing about any model.
"""

from __future__ import annotations

import json
import re
from typing import Any

from researcher.errors import Rejected
from researcher.optimizer.optimizer import Optimizer, Sampler
from researcher.source.proposal import Proposal, SetKnobs
from tests.bench.scripted_moves import ScriptedMoves
from tests.doubles.ollama_server import Turn

_CODE = re.compile(r"^(`{3,})python\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


class ScriptedLlm:
    """A script for `OllamaDouble`, which calls it with each question; `context` is the row length in tokens."""

    def __init__(self, seed: int, context: int, latency_s: float = 0.0) -> None:
        self._editor = ScriptedMoves(seed=seed, context=context)
        self._adviser = Optimizer(seed=seed, context=context, sampler=Sampler.RANDOM)
        self._latency_s = latency_s
        self._given: list[dict[str, Any]] = []

    def __call__(self, question: dict[str, Any]) -> Turn:
        """Return a move that was not given before, if there is one."""
        code = next((found[2] for text in _texts(question) if (found := _CODE.search(text))), "")
        who = self._adviser if "format" in question else self._editor
        try:
            proposal = who.propose(code, self._fresh)
        except Rejected as nothing:
            return Turn(f"I have no idea: {nothing}", latency_s=self._latency_s)
        knobs = _knobs(proposal)
        self._given.append(knobs)
        if "format" in question:
            text = json.dumps({"title": proposal.title, "hypothesis": "a draw", "set": knobs})
        else:
            lines = [f"SET {name} = {value!r}" for name, value in knobs.items()]
            text = "\n".join([f"TITLE: {proposal.title}", "HYPOTHESIS: habit", *lines])
        return Turn(text, latency_s=self._latency_s)

    def _fresh(self, proposal: Proposal) -> Proposal:
        if _knobs(proposal) in self._given[-40:]:
            raise Rejected("given before")
        return proposal


def _texts(question: dict[str, Any]) -> list[str]:
    return [str(message["content"]) for message in reversed(question["messages"])]


def _knobs(proposal: Proposal) -> dict[str, Any]:
    return {name: value for edit in proposal.edits if isinstance(edit, SetKnobs) for name, value in edit.knobs.items()}
