"""A prompt that fits: files with {named} fields, the stable part first, the growing part last and cut from its old end.

Tokens are estimated from bytes, and the caller corrects the room by what servers count; what had to be left out is
said in the prompt. The files in `researcher/prompts/` are meant to be read and edited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from researcher.chat import Message
from researcher.errors import ModelFault, ResearcherError
from researcher.proposal import Lane
from researcher.replies import one_line

BYTES_PER_TOKEN = 3  # usual vocabularies take 3 to 4 bytes of Python or English; numbers and other scripts fewer
MESSAGE_TOKENS = 16  # what a chat template adds around a message
LINE_CHARACTERS = 400
QUOTED_CHARACTERS = 8_000

_FENCE = "```"
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("program", "profile", "lanes"),
    "task": ("source", "incumbent", "history", "rejections", "task"),
    "next": (),
    "idea": ("idea",),
    "repair": ("reason",),
    "move": ("reason",),
    **dict.fromkeys(Lane, ()),
}


@dataclass(frozen=True)
class PromptContext:
    """What a model is told. `history` and `rejections` are lines, oldest first; `idea` is a person's wish or None.

    `lanes` are the forms of edits that it is offered.
    """

    program: str
    profile: str
    source: str
    incumbent: str
    history: tuple[str, ...] = ()
    rejections: tuple[str, ...] = ()
    idea: str | None = None
    lanes: tuple[Lane, ...] = tuple(Lane)


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
        """The question, of at most `room` estimated tokens.

        Raises ModelFault, naming the setting, if even without any history it does not fit.
        """
        bare = self._filled(context, _listed((), len(context.history)), _listed((), len(context.rejections)))
        spare = room - prompt_tokens(bare)
        if spare < 0:
            raise ModelFault(
                f"the prompt needs about {prompt_tokens(bare)} tokens ({tokens(context.source)} of them for train.py) "
                f"without any history, but only {room} are free; raise NUM_CTX by {-spare} or more"
            )
        rejections = _newest(context.rejections, spare // 2)
        history = _newest(context.history, spare - sum(map(_line_tokens, rejections)))
        return self._filled(
            context,
            _listed(history, len(context.history) - len(history)),
            _listed(rejections, len(context.rejections) - len(rejections)),
        )

    def repair(
        self,
        context: PromptContext,
        room: int,
        reply: str,
        reason: str,
        form: Literal["repair", "move"] = "repair",
    ) -> tuple[Message, ...]:
        """The question again, the answer that failed, and why; raises ModelFault if that does not fit.

        `form` names the file that says how to answer now.
        """
        quoted = reply if len(reply) <= QUOTED_CHARACTERS else reply[:QUOTED_CHARACTERS] + "\n[...]"
        turn = (
            Message("assistant", quoted),
            Message("user", _fill(self.texts[form], {"reason": reason})),
        )
        return (*self.messages(context, room - prompt_tokens(turn)), *turn)

    def _filled(self, context: PromptContext, history: str, rejections: str) -> tuple[Message, ...]:
        wish = self.texts["next"] if context.idea is None else _fill(self.texts["idea"], {"idea": context.idea})
        values = {
            "program": context.program.strip(),
            "profile": context.profile,
            "lanes": "\n\n".join(self.texts[lane].strip() for lane in context.lanes),
            "source": context.source.rstrip("\n"),
            "incumbent": context.incumbent,
            "history": history,
            "rejections": rejections,
            "task": wish.strip(),
        }
        task = self.texts["task"].replace(_FENCE, _fence_around(context.source))
        return Message("system", _fill(self.texts["system"], values)), Message("user", _fill(task, values))


def tokens(text: str) -> int:
    """An estimate; a server has the last word."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


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


def _line_tokens(line: str) -> int:
    return tokens(_item(line)) + 1


def _item(line: str) -> str:
    """What scripts printed is among them: it stays on its line and opens no fence."""
    return "- " + one_line(line, LINE_CHARACTERS).replace(_FENCE, '"')


def _listed(lines: tuple[str, ...], omitted: int) -> str:
    note = [f"({omitted} older ones are omitted for want of room)"] if omitted else []
    return "\n".join([*note, *map(_item, lines)]) or "(none yet)"
