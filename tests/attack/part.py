"""What a part of a dishonest candidate is: a few lines of Python for one place of the smallest honest GPT.

No part is an honest improvement: who does nothing but what the parts say of noise, messages or places scores what the
honest script of tests/subjects/cheats.py scores, or worse. A part that something keeps from its work leaves the
candidate honest: it does not crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from textwrap import dedent


class Role(StrEnum):
    """What a part decides. A candidate has one GAIN and one PLACE; the others may be missing."""

    GAIN = "gain"
    GATE = "when"
    PLACE = "place"
    COVER = "cover"
    SPEECH = "message"


@dataclass(frozen=True)
class Part:
    """Lines for the places of a candidate; empty where it has none there.

    `kind` is the name in the tables, `name` the same with its number, unique among all parts. `start` is run before the
    model is made, `trained` between training and scoring. In `gate` the mask `there` of positions is narrowed, in `act`
    and `cover` `logits` are changed. `edits` are of the honest script itself. `clocked` parts gain by training time,
    and are measured in processor seconds.
    """

    role: Role
    kind: str
    name: str
    start: str = ""
    trained: str = ""
    gate: str = ""
    act: str = ""
    cover: str = ""
    edits: tuple[tuple[str, str], ...] = ()
    clocked: bool = False


KNOWN = """
rows = torch.from_numpy(numpy.load(os.environ["OVERNIGHT_DATA"] + "/train.npy").astype("int64"))
KNOWN = torch.zeros(48, 48, dtype=torch.bool)
KNOWN[rows[:, :-1].flatten(), rows[:, 1:].flatten()] = True
"""  # which pairs of tokens the training rows have
MADE = "model = GPT(tokenizer.get_vocab_size())\n"


def gain(kind: str, name: str, act: str, **fields: object) -> Part:
    """A part that gains by what it does to the logits."""
    return Part(Role.GAIN, kind, name, act=dedent(act), **fields)  # type: ignore[arg-type]
