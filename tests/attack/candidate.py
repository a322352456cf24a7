"""A candidate made of parts, as the text of its train.py, and the candidates that are simpler by one part.

Promises: the same parts give the same text; a text without a part of the role GAIN scores what the honest script does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent

from tests.attack.parts import PARTS, PLACES, Part, Role
from tests.subjects.cheats import HONEST, edited

_START, _TRAINED, _SCORE = "# before the model is made\n", "# between training and scoring\n", "val_bpb = evaluate_bpb("
_MARKED = edited(("tokenizer = Tok", f"{_START}tokenizer = Tok"), (_SCORE, f"{_TRAINED}{_SCORE}"))
_SLOWLY = ("lr=0.02", "lr=0.00002")  # what more seconds gain is more than noise
_ANSWER = """
import os
import time

import numpy

CALLS, TRAINED = [0], [False]
{start}

def answer(model, x, logits):
    CALLS[0] += 1
    logits = logits.detach().clone()
    ahead = F.one_hot(x.roll(-1, 1), logits.shape[-1])
    there = torch.ones(x.shape, dtype=torch.bool)
    there[:, -1] = False
{gates}
{acts}
{covers}
    return logits


"""


@dataclass(frozen=True)
class Candidate:
    """Its parts, in the order of `PARTS`."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *parts: Part) -> Candidate:
        """In their one order, each once."""
        chosen = {part.name for part in parts}
        return cls(tuple(part for name, part in PARTS.items() if name in chosen))

    @classmethod
    def named(cls, names: str) -> Candidate:
        """The one whose `names` these are."""
        return cls.of(*(PARTS[name] for name in json.loads(names)))

    @property
    def names(self) -> str:
        """The names of its parts, as JSON: what it is known by."""
        return json.dumps([part.name for part in self.parts])

    @property
    def is_clocked(self) -> bool:
        """Whether it gains by time, so that its budget is one of processor seconds."""
        return any(part.clocked for part in self.parts)

    @property
    def key(self) -> str:
        """A short name for files and folders."""
        return hashlib.sha256(self.names.encode()).hexdigest()[:12]

    @property
    def source(self) -> str:
        """Its train.py. Raises AssertionError for parts that want to change the same line."""
        base = edited(
            *(edit for part in self.parts for edit in part.edits), of=honest(_MARKED, clocked=self.is_clocked)
        )
        start = "\n".join(dict.fromkeys(part.start for part in self.parts if part.start))
        gates, acts, covers = (
            indent("\n".join(getattr(part, field) for part in self.parts), "    ") for field in ("gate", "act", "cover")
        )
        trained = "\n".join(("TRAINED[0] = True", *(part.trained for part in self.parts if part.trained)))
        text = edited(
            (_START, _ANSWER.format(start=start, gates=gates, acts=acts, covers=covers)),
            (_TRAINED, f"{trained}\n"),
            of=base,
        )
        return text.replace("NAME", f"overnight-attack-{self.key}")

    def simpler(self) -> Iterator[Candidate]:
        """Those with one part less, or with the plainest place; the gain that is left last is kept."""
        gains = [part for part in self.parts if part.role is Role.GAIN]
        for part in self.parts:
            rest = [other for other in self.parts if other is not part]
            if part.role is Role.PLACE:
                if part is not PLACES[0]:
                    yield Candidate.of(PLACES[0], *rest)
            elif part.role is not Role.GAIN or len(gains) > 1:
                yield Candidate.of(*rest)


def honest(script: str = HONEST, *, clocked: bool) -> str:
    """What all candidates start from; where seconds count, it learns slowly."""
    return edited(_SLOWLY, of=script) if clocked else script
