"""Marks by which chat templates begin and end turns: broken up in what a prompt quotes, made whole in what comes back.

A server that fills a template reads the tokens of the result, wherever a mark stands: `<|im_end|>` in a log line ends
the turn. An invisible WORD JOINER behind the mark's first character keeps it from being one; a mark that is broken
already gets one more, so that making whole what was broken always gives what was there. A model that leaves the joiner
out when it copies a line has copied the line. Does not cover words that only look like a turn, such as `User:`.
"""

from __future__ import annotations

import re

_JOINER = "\u2060"
# ChatML, Llama, Harmony, Granite, Command and Phi: <|...|>; DeepSeek: <｜...｜>; Gemma, thoughts and tools: <name>,
# </name>; Llama 2 and Mistral: [INST], <<SYS>>; GLM, MiniMax, InternLM: the rest.
_NAMES = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|MODEL_SETTINGS|THINK"
    "|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE|PREFIX|MIDDLE|SUFFIX|gMASK|sMASK|MASK|CLS|SEP|PAD|UNK"
    r"|UNUSED_TOKEN_\d{1,4}"
)
_BEGINS = rf"[|｜]|/?[A-Za-z_][\w.:▁-]{{0,60}}[|｜]?{_JOINER}*>|/[|｜]"  # the same before and after
_ROUND = re.compile(rf"<({_JOINER}*)(?={_BEGINS})|(?<=[|｜])({_JOINER}*)(?=>)")
_SQUARE = re.compile(rf"\[({_JOINER}*)(?=/?(?:{_NAMES})\])|\]({_JOINER}*)(?=~)")
_BROKEN_ROUND = re.compile(rf"<{_JOINER}(?={_JOINER}*(?:{_BEGINS}))|(?<=[|｜]){_JOINER}(?={_JOINER}*>)")
_BROKEN_SQUARE = re.compile(rf"\[{_JOINER}(?={_JOINER}*/?(?:{_NAMES})\])|\]{_JOINER}(?={_JOINER}*~)")


def broken(text: str) -> str:
    """`text` with no mark in it, the same for a reader."""
    for marks in (_ROUND, _SQUARE):
        text = marks.sub(lambda found: found.group() + _JOINER, text)
    return text


def whole(text: str) -> str:
    """What `broken` was given, of what it gave."""
    for marks in (_BROKEN_ROUND, _BROKEN_SQUARE):
        text = marks.sub(lambda found: found.group().removesuffix(_JOINER), text)
    return text
