"""Disables the marks of chat templates in quoted text, and restores them in answers.

A server that fills a template interprets a mark wherever it is: `<|im_end|>` in a log line ends the turn. An invisible
WORD JOINER after the mark's first character disables it. A mark that already contains joiners gets one more, so that
restoring always gives the original text. A model that omits the joiner when it copies a line has still copied the line.
Not covered: words that only resemble a turn, such as `User:`.
"""

from __future__ import annotations

import re

_JOINER = "\u2060"
# ChatML, Llama, Harmony, Granite, Command and Phi: <|...|>; DeepSeek: <｜...｜>; Gemma, reasoning, tools: <name>,
# </name>; Llama 2 and Mistral: [INST], <<SYS>>; Kimi: ◁think▷; GLM, MiniMax, InternLM: the rest.
_NAMES = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|MODEL_SETTINGS|THINK|THINKING|REASONING"
    "|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE|PREFIX|MIDDLE|SUFFIX|gMASK|sMASK|MASK|CLS|SEP|PAD|UNK"
    r"|UNUSED_TOKEN_\d{1,4}"
)
_BEGINS = rf"[|｜]|/?[A-Za-z_][\w.:▁-]{{0,60}}[|｜]?{_JOINER}*>|/[|｜]"  # the same before and after
_ROUND = re.compile(rf"<({_JOINER}*)(?={_BEGINS})|(?<=[|｜])({_JOINER}*)(?=>)|◁({_JOINER}*)(?=/?think▷)")
_SQUARE = re.compile(rf"\[({_JOINER}*)(?=/?(?:{_NAMES})\])|\]({_JOINER}*)(?=~)")
_BROKEN_ROUND = re.compile(
    rf"<{_JOINER}(?={_JOINER}*(?:{_BEGINS}))|(?<=[|｜]){_JOINER}(?={_JOINER}*>)|◁{_JOINER}(?={_JOINER}*/?think▷)"
)
_BROKEN_SQUARE = re.compile(rf"\[{_JOINER}(?={_JOINER}*/?(?:{_NAMES})\])|\]{_JOINER}(?={_JOINER}*~)")


def broken(text: str) -> str:
    """Return `text` with all marks disabled. A reader sees no difference."""
    for marks in (_ROUND, _SQUARE):
        text = marks.sub(lambda found: found.group() + _JOINER, text)
    return text


def whole(text: str) -> str:
    """Restore a text that `broken` returned."""
    for marks in (_BROKEN_ROUND, _BROKEN_SQUARE):
        text = marks.sub(lambda found: found.group().removesuffix(_JOINER), text)
    return text
