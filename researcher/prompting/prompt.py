"""A prompt that fits: files with {named} fields, what changes least first, the growing part cut from its old end.

A prompt begins as the one before did for as long as can be, since servers read only what is new: cuts are made in
blocks. Tokens are estimated, and the caller corrects the room by what servers count; what had to be left out is said
in the prompt. What is quoted holds no mark of a chat template: see `researcher.prompting.chat_markers`. The files in
`researcher/prompting/prompts/` are meant to be read and edited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from researcher.errors import BadLlmResponse, EditError, ResearcherError
from researcher.llm.client import Message
from researcher.prompting.chat_markers import broken
from researcher.prompting.reply_parser import one_line
from researcher.prompting.source_outline import outline, part_names
from researcher.prompting.token_estimate import tokens
from researcher.source.proposal import EditFormat

MESSAGE_TOKENS = 16  # what a chat template adds around a message
LINE_CHARACTERS = 400
QUOTED_CHARACTERS = 8_000
BLOCK_LINES = 10  # of the history: left out at once, so that its beginning stays for as many experiments
REJECTIONS_TOKENS = 1000  # kept free, so that the history's beginning does not depend on them
MEMORY_TOKENS = 1500  # likewise
OUTLINE_SHARE = 0.7  # of what a long train.py may share with the digest
OUTLINE_STEP = 512  # a view of train.py changes only with that many tokens of room

_FENCE = "```"
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("program", "profile", "lanes"),
    "task": ("source", "incumbent", "history", "memory", "rejections", "task"),
    "next": (),
    "plateau": ("fruitless",),
    "adviser": ("program", "profile"),
    "advice": ("knobs", "incumbent", "history", "memory", "best", "suggestion"),
    "idea": ("idea",),
    "outline": ("lines",),
    "repair": ("reason",),
    "move": ("reason",),
    **dict.fromkeys(EditFormat, ()),
}


@dataclass(frozen=True)
class Advice:
    """What a model that moves knobs is shown instead of train.py: the lines of its knobs, the best scores and where
    they were, what the optimiser would do."""

    knobs: tuple[str, ...]
    best: tuple[str, ...]
    suggestion: str


@dataclass(frozen=True)
class PromptContext:
    """What a model is told. `history` and `rejections` are lines, oldest first; `idea` is a person's wish or None.

    `lanes` are the forms of edits that it is offered. `earlier` experiments are older than the history's first line.
    Of a train.py too long to be shown, the parts in `named` are shown first, and others by `turn`. `memory` is lines,
    what matters most first, under headings that begin with #. With `advice` it is asked for a move of knobs and nothing
    else. `fruitless` counts the experiments of a plateau, None where there is none.
    """

    program: str
    profile: str
    source: str
    incumbent: str
    history: tuple[str, ...] = ()
    rejections: tuple[str, ...] = ()
    idea: str | None = None
    lanes: tuple[EditFormat, ...] = tuple(EditFormat)
    earlier: int = 0
    named: tuple[str, ...] = ()
    turn: int = 0
    memory: tuple[str, ...] = ()
    advice: Advice | None = None
    fruitless: int | None = None


@dataclass(frozen=True)
class Prompts:
    """The texts of a folder of prompts, by the names of their files."""

    texts: dict[str, str]

    @classmethod
    def read(cls, folder: Path | None = None) -> Prompts:
        """The prompts in `folder`, or those that come with the package."""
        folder = folder or Path(__file__).parent / "prompts"
        return cls({name: _read(folder / f"{name}.md", fields) for name, fields in _FIELDS.items()})

    def messages(self, context: PromptContext, room: int) -> tuple[Message, ...]:
        """The question, of at most `room` estimated tokens, with an outline of a train.py that is too long.

        Raises BadLlmResponse, naming the setting, if even without any history it does not fit.
        """
        return self._fitted(self._viewed(context, room), room)

    def repair(
        self,
        context: PromptContext,
        room: int,
        reply: str,
        reason: str,
        form: Literal["repair", "move"] = "repair",
    ) -> tuple[Message, ...]:
        """The question again, the answer that failed, and why; raises BadLlmResponse if that does not fit.

        `form` names the file that says how to answer now.
        """
        quoted = reply if len(reply) <= QUOTED_CHARACTERS else reply[:QUOTED_CHARACTERS] + "\n[...]"
        turn = (
            Message("assistant", broken(quoted)),
            Message("user", _fill(self.texts[form], {"reason": broken(reason)})),
        )
        left = room - prompt_tokens(turn)
        try:
            asked = self._fitted(self._viewed(context, room), left)  # the view of train.py that was answered to
        except BadLlmResponse:
            asked = self.messages(context, left)
        return (*asked, *turn)

    def _viewed(self, context: PromptContext, room: int) -> PromptContext:
        """With as much of train.py as fits; what is left out cannot be rewritten."""
        if context.advice is not None or self._spare(context, room) >= 0:
            return context
        lanes = tuple(lane for lane in context.lanes if lane is not EditFormat.FILE) or (EditFormat.SEARCH,)
        context = replace(context, lanes=lanes)
        count = context.source.count("\n") + 1
        note = _fill(self.texts["outline"], {"lines": str(count)})
        head = "".join(f"# {line}".rstrip() + "\n" for line in note.strip().splitlines())
        free = self._spare(replace(context, source=head, idea=None), room)
        try:
            names = [name for name in part_names(context.source) if _names(name, context.idea)]
            view = outline(
                context.source,
                int(OUTLINE_SHARE * free) // OUTLINE_STEP * OUTLINE_STEP,
                (*names, *context.named),
                context.turn,
            )
        except EditError:
            return context
        return context if view is None else replace(context, source=head + view)

    def _spare(self, context: PromptContext, room: int) -> int:
        """Room for history and rejections."""
        bare = self._filled(
            context, _listed((), context.earlier + len(context.history)), "", _listed((), len(context.rejections))
        )
        return room - prompt_tokens(bare)

    def _fitted(self, context: PromptContext, room: int) -> tuple[Message, ...]:
        spare = self._spare(context, room)
        if spare < 0:
            raise BadLlmResponse(
                f"the prompt needs about {room - spare} tokens ({tokens(context.source)} of them for train.py) "
                f"without any history, but only {room} are free; raise NUM_CTX by {-spare} or more"
            )
        kept = min(spare // 4, REJECTIONS_TOKENS) if context.rejections else 0
        rejections = _newest(context.rejections, kept)
        remembered = min(spare // 2, MEMORY_TOKENS) if context.memory else 0
        history = _newest_blocks(context.history, spare - kept - remembered)
        return self._filled(
            context,
            _listed(history, context.earlier + len(context.history) - len(history)),
            _remembered(context.memory, remembered),
            _listed(rejections, len(context.rejections) - len(rejections)),
        )

    def _filled(self, context: PromptContext, history: str, memory: str, rejections: str) -> tuple[Message, ...]:
        values = {
            "program": broken(context.program.strip()),
            "profile": broken(context.profile),
            "lanes": "\n\n".join(self.texts[lane].strip() for lane in context.lanes),
            "source": broken(context.source.rstrip("\n")),
            "incumbent": broken(context.incumbent),
            "history": history,
            "memory": memory or "(nothing yet)",
            "rejections": rejections,
            "task": self._wish(context).strip(),
        }
        if (advice := context.advice) is not None:
            knobs = broken("\n".join(advice.knobs))
            values |= {
                "knobs": knobs,
                "best": _listed(advice.best, 0),
                "suggestion": broken(advice.suggestion),
            }
            return (
                Message("system", _fill(self.texts["adviser"], values)),
                Message("user", _fill(self.texts["advice"].replace(_FENCE, _fence_around(knobs)), values)),
            )
        task = self.texts["task"].replace(_FENCE, _fence_around(context.source))
        return Message("system", _fill(self.texts["system"], values)), Message("user", _fill(task, values))

    def _wish(self, context: PromptContext) -> str:
        if context.idea is not None:
            return _fill(self.texts["idea"], {"idea": broken(context.idea)})
        if context.fruitless is not None:
            return _fill(self.texts["plateau"], {"fruitless": str(context.fruitless)})
        return self.texts["next"]


def prompt_tokens(messages: Sequence[Message]) -> int:
    """The estimate for a conversation."""
    return sum(tokens(message.content) + MESSAGE_TOKENS for message in messages)


def _read(path: Path, fields: tuple[str, ...]) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResearcherError(f"prompt {path} cannot be read: {error}") from error
    missing = [name for name in fields if f"{{{name}}}" not in text]
    if missing:
        raise ResearcherError(f"prompt {path} lacks the field {{{missing[0]}}}; put it where its text shall stand")
    return text


def _fill(text: str, values: dict[str, str]) -> str:
    """Fields are replaced in one pass, so a value that holds {braces} stays as it is."""
    return _FIELD.sub(lambda found: values.get(found.group(1), found.group()), text)


def _fence_around(source: str) -> str:
    """One that nothing in the source can close."""
    return "`" * max(len(_FENCE), 1 + max(map(len, re.findall("`+", source)), default=0))


def _newest(lines: tuple[str, ...], spare: int) -> tuple[str, ...]:
    """As many of the last lines as fit."""
    kept = []
    for line in reversed(lines):
        spare -= _line_tokens(line)
        if spare < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))


def _newest_blocks(lines: tuple[str, ...], spare: int) -> tuple[str, ...]:
    """All that fit but for whole blocks of the oldest; of the last block, as many as fit."""
    costs = [*map(_line_tokens, lines)]
    start, spent = 0, sum(costs)
    while spent > spare and start + BLOCK_LINES < len(lines):
        spent -= sum(costs[start : start + BLOCK_LINES])
        start += BLOCK_LINES
    return _newest(lines[start:], spare)


def _remembered(lines: tuple[str, ...], spare: int) -> str:
    """As many of the first lines as fit; a heading without any below it is left out."""
    kept: list[str] = []
    for line in lines:
        written = line if line.startswith("#") else _item(line)
        spare -= tokens(written) + 1
        if spare < 0:
            break
        kept.append(written)
    while kept and kept[-1].startswith("#"):
        kept.pop()
    return "\n".join(kept)


def _names(name: str, idea: str | None) -> bool:
    """Whether a person's idea speaks of a part."""
    return idea is not None and re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", idea) is not None


def _line_tokens(line: str) -> int:
    return tokens(_item(line)) + 1


def _item(line: str) -> str:
    """What scripts printed is among them: it stays on its line, opens no fence and ends no turn."""
    return "- " + broken(one_line(line, LINE_CHARACTERS).replace(_FENCE, '"'))


def _listed(lines: tuple[str, ...], omitted: int) -> str:
    note = [f"({omitted} older ones are omitted for want of room)"] if omitted else []
    return "\n".join([*note, *map(_item, lines)]) or "(none yet)"
