"""Builds a prompt that fits: templates with {named} fields, stable parts first, the oldest history lines cut first.

Consecutive prompts share the longest possible prefix, since servers process only new text; so cuts are made in blocks.
Tokens are estimated, and the caller corrects the room by the server's counts. The prompt says what was omitted. Quoted
text contains no mark of a chat template: see `researcher.prompting.chat_markers`. Users may edit the files in
`researcher/prompting/prompts/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from researcher.errors import BadLlmResponse, EditError, ResearcherError
from researcher.files import read_text
from researcher.llm.client import Message
from researcher.prompting.chat_markers import broken
from researcher.prompting.context_budget import prompt_tokens, tokens
from researcher.prompting.knob_json import ONE_KNOB_FORM, Move
from researcher.prompting.reply_parser import FORMS, one_line
from researcher.prompting.source_outline import excerpt, knobs_apart, outline, part_names
from researcher.source.proposal import FREE_FORMATS, EditFormat, ProposerName
from trainer.jobs import BITS_PER_BYTE, Direction, Metric
from trainer.jobs.task import Task

LINE_CHARACTERS = 400
QUOTED_CHARACTERS = 8_000
BLOCK_LINES = 10  # history lines are omitted in blocks, so that its beginning stays the same for some experiments
REJECTIONS_TOKENS = 1000  # reserved, so that the beginning of the history does not depend on rejections
MEMORY_TOKENS = 1500  # likewise
OUTLINE_SHARE = 0.7  # of the room that a long train.py shares with the history
OUTLINE_STEP = 512  # tokens; the outline changes only if the room changes by this much

_FENCE = "```"
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("program", "profile", "edit_formats"),
    "task": ("source", "knobs", "incumbent", "history", "memory", "rejections", "task", "form"),
    "knobs": ("knobs",),
    "next": (),
    "plateau": ("fruitless",),
    "adviser": ("program", "profile", "edit_formats"),
    "advice": ("knobs", "incumbent", "history", "rejections", "task", "form"),
    "suggested": ("suggestion",),
    "again": ("times",),
    "idea": ("idea",),
    "part": ("part",),
    "removal": ("part",),
    "one_knob": ("form",),
    "outline": ("lines",),
    "rules": (),
    "claimed_rules": ("name",),
    "measured_rules": ("name", "output"),
    "repair": ("reason",),
    "move": ("reason", "form"),
    **dict.fromkeys(EditFormat, ("form",)),
}


@dataclass(frozen=True)
class Advice:
    """The content of a prompt for a change of knobs alone, instead of train.py.

    It holds the lines of the knobs with the effects of their moves, and perhaps the optimiser's own suggestion.
    """

    knobs: tuple[str, ...]
    suggestion: str | None = None


@dataclass(frozen=True)
class PromptContext:
    """The content of a prompt. `history` and `rejections` are lines, oldest first; `idea` is a user's wish or None.

    `edit_formats` are the offered edit formats. `earlier` is the number of experiments before the history's first line.
    Of a long train.py, the parts in `named` are shown first, and others by `turn`. `memory` holds lines, the most
    important first, under headings that begin with #. With `advice` the prompt asks only for a change of knobs.
    `fruitless` is the number of experiments of a plateau, or None. `asked_before` counts the answers to the same
    question.

    `one_knob` is True if an answer in JSON moves one knob, to a value that is not in `closed`. With `part` the prompt
    shows this function alone, and asks for a better one, or if `removes` for less code in it. `proposer_name` is the
    name under which the LLM proposes. `knob_lines` are those of a train.py that has a comment in their place.
    `metric` is what scores are, and `task` the user's own task, None for a GPT training script.
    """

    program: str
    profile: str
    source: str
    incumbent: str
    history: tuple[str, ...] = ()
    rejections: tuple[str, ...] = ()
    idea: str | None = None
    edit_formats: tuple[EditFormat, ...] = FREE_FORMATS
    earlier: int = 0
    named: tuple[str, ...] = ()
    turn: int = 0
    memory: tuple[str, ...] = ()
    advice: Advice | None = None
    fruitless: int | None = None
    asked_before: int = 0
    one_knob: bool = False
    closed: frozenset[Move] = frozenset()
    part: str | None = None
    removes: bool = False
    proposer_name: str = ProposerName.LLM
    knob_lines: str = ""
    metric: Metric = BITS_PER_BYTE
    task: Task | None = None


@dataclass(frozen=True)
class Prompts:
    """The templates of a folder, by the names of their files."""

    texts: dict[str, str]

    @classmethod
    def read(cls, folder: Path | None = None) -> Prompts:
        """Read the templates in `folder`, or those of the package."""
        folder = folder or Path(__file__).parent / "prompts"
        texts = {name: _read(folder / f"{name}.md", fields) for name, fields in _FIELDS.items()}
        forms = FORMS | {"one_knob": ONE_KNOB_FORM, "move": ONE_KNOB_FORM}
        return cls(texts | {name: _fill(texts[name], {"form": form}) for name, form in forms.items()})

    def messages(self, context: PromptContext, room: int) -> tuple[Message, ...]:
        """Return the question, of at most `room` estimated tokens, with an outline if train.py is too long.

        Raises BadLlmResponse, naming the setting, if the question does not fit even without history.
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
        """Return the question, the failed answer and the error. Raises BadLlmResponse if they do not fit.

        `form` names the template that says how to answer now.
        """
        quoted = reply if len(reply) <= QUOTED_CHARACTERS else reply[:QUOTED_CHARACTERS] + "\n[...]"
        turn = (
            Message("assistant", broken(quoted)),
            Message("user", _fill(self.texts[form], {"reason": broken(reason)})),
        )
        left = room - prompt_tokens(turn)
        try:
            asked = self._fitted(self._viewed(context, room), left)  # the first question's view of train.py
        except BadLlmResponse:
            asked = self.messages(context, left)
        return (*asked, *turn)

    def _viewed(self, context: PromptContext, room: int) -> PromptContext:
        """Choose what the prompt shows of train.py.

        The knobs, which change most often, stand last, so that a server has read what is before them. A train.py that
        does not fit is replaced by an outline, and the format that rewrites the whole file is withdrawn.
        """
        if context.advice is not None:
            return context
        if context.part is not None:
            return replace(context, source=excerpt(context.source, context.part))
        if EditFormat.FILE not in context.edit_formats:
            apart = _knobs_last(context)
            if self._spare(apart, room) >= 0:
                return apart
        if self._spare(context, room) >= 0:
            return context
        edit_formats = tuple(
            edit_format for edit_format in context.edit_formats if edit_format is not EditFormat.FILE
        ) or (EditFormat.SEARCH,)
        context = replace(context, edit_formats=edit_formats)
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
        """Return the estimated tokens left for history, memory and rejections."""
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
            "edit_formats": "\n\n".join(self.texts[name].strip() for name in _explained(context)),
            "form": _form(context),
            "source": broken(context.source.rstrip("\n")),
            "incumbent": broken(context.incumbent),
            "history": history,
            "memory": memory or "(nothing yet)",
            "rejections": rejections,
            "task": self._task(context).strip(),
            "script": "training script" if context.task is None else "script",
            "rules": self._rules(context.task).strip(),
            "metric": f"{context.metric.name} ({context.metric.explained()})",
            "better": "below 0" if context.metric.direction is Direction.LOWER else "above 0",
        }
        if (advice := context.advice) is not None:
            knobs = broken("\n".join(advice.knobs))
            return (
                Message("system", _fill(self.texts["adviser"], values)),
                Message(
                    "user",
                    _fill(self.texts["advice"].replace(_FENCE, _fence_around(knobs)), values | {"knobs": knobs}),
                ),
            )
        fence = _fence_around(context.source + context.knob_lines)
        knobs = self.texts["knobs"].replace(_FENCE, fence) if context.knob_lines else ""
        values["knobs"] = _fill(knobs, {"knobs": broken(context.knob_lines)})
        task = self.texts["task"].replace(_FENCE, fence)
        return Message("system", _fill(self.texts["system"], values)), Message("user", _fill(task, values))

    def _rules(self, task: Task | None) -> str:
        """Return what a script must keep so that it gets a score."""
        if task is None:
            return self.texts["rules"]
        if task.score is None:
            return _fill(self.texts["claimed_rules"], {"name": task.metric.name})
        values = {"name": task.metric.name, "output": task.score.output}
        return _fill(self.texts["measured_rules"], values)

    def _task(self, context: PromptContext) -> str:
        again = _fill(self.texts["again"], {"times": str(context.asked_before)}) if context.asked_before else ""
        return self._wanted(context) + again

    def _wanted(self, context: PromptContext) -> str:
        if context.advice is not None:
            suggestion = context.advice.suggestion
            given = {} if suggestion is None else {"suggestion": broken(suggestion)}
            return _fill(self.texts["suggested" if given else "next"], given)
        if context.idea is not None:
            return _fill(self.texts["idea"], {"idea": broken(context.idea)})
        if context.part is not None:
            return _fill(self.texts["removal" if context.removes else "part"], {"part": context.part})
        if context.fruitless is not None:
            return _fill(self.texts["plateau"], {"fruitless": str(context.fruitless)})
        return self.texts["next"]


def _knobs_last(context: PromptContext) -> PromptContext:
    """Return the context with the blocks of knobs apart from train.py. One that does not parse stays as it is."""
    try:
        source, knob_lines = knobs_apart(context.source)
    except EditError:
        return context
    return replace(context, source=source, knob_lines=knob_lines)


def _explained(context: PromptContext) -> tuple[str, ...]:
    """Return the names of the texts that explain the edit formats."""
    return ("one_knob",) if context.one_knob and context.edit_formats == (EditFormat.JSON,) else context.edit_formats


def _form(context: PromptContext) -> str:
    """Return the forms of an answer, with placeholders, because models copy what could be an answer."""
    if _explained(context) == ("one_knob",):
        return ONE_KNOB_FORM
    forms = "\n\nor\n\n".join(FORMS[edit_format] for edit_format in context.edit_formats)
    return forms if context.part is None else forms.replace("Class.method", context.part)


def _read(path: Path, fields: tuple[str, ...]) -> str:
    try:
        text = read_text(path)
    except OSError as error:
        raise ResearcherError(f"prompt {path} cannot be read: {error}") from error
    missing = [name for name in fields if f"{{{name}}}" not in text]
    if missing:
        raise ResearcherError(f"prompt {path} lacks the field {{{missing[0]}}}; put it where its text shall stand")
    return text


def _fill(text: str, values: dict[str, str]) -> str:
    """Replace all fields in one pass, so that a value with {braces} stays unchanged."""
    return _FIELD.sub(lambda found: values.get(found.group(1), found.group()), text)


def _fence_around(source: str) -> str:
    """Return a fence that nothing in the source can close."""
    return "`" * max(len(_FENCE), 1 + max(map(len, re.findall("`+", source)), default=0))


def _newest(lines: tuple[str, ...], spare: int) -> tuple[str, ...]:
    """Return as many of the last lines as fit."""
    kept = []
    for line in reversed(lines):
        spare -= _line_tokens(line)
        if spare < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))


def _newest_blocks(lines: tuple[str, ...], spare: int) -> tuple[str, ...]:
    """Return the lines without whole blocks of the oldest, so that they fit; of a last block, as many lines as fit."""
    costs = [*map(_line_tokens, lines)]
    start, spent = 0, sum(costs)
    while spent > spare and start + BLOCK_LINES < len(lines):
        spent -= sum(costs[start : start + BLOCK_LINES])
        start += BLOCK_LINES
    return _newest(lines[start:], spare)


def _remembered(lines: tuple[str, ...], spare: int) -> str:
    """Return as many of the first lines as fit, without headings that have no line below."""
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
    """Return True if a user's idea names a part."""
    return idea is not None and re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", idea) is not None


def _line_tokens(line: str) -> int:
    return tokens(_item(line)) + 1


def _item(line: str) -> str:
    """Format a list item. Output of scripts may be in it, so it stays on one line, opens no fence and ends no turn."""
    return "- " + broken(one_line(line, LINE_CHARACTERS).replace(_FENCE, '"'))


def _listed(lines: tuple[str, ...], omitted: int) -> str:
    note = [f"({omitted} older ones are omitted for want of room)"] if omitted else []
    return "\n".join([*note, *map(_item, lines)]) or "(none yet)"
