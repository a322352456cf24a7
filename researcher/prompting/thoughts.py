"""Removes the reasoning that a server left in an answer, and joins both for storage."""

from __future__ import annotations

import re

# The marks around reasoning: <think> and similar names, with a prefix (Seed, LongCat) or attributes; Mistral's [THINK];
# Kimi's ◁think▷; <|...|> of Cohere, OpenThinker, Solar and Apertus; MedGemma's <unused94>; the channels of Gemma and
# Harmony; the last line of Ollama's command. Harmony, Granite, Apriel and others mark the answer instead of the end of
# the reasoning; Harmony's marks may come without brackets. Open WebUI and others fold reasoning into <details>.
REASONING = r"(?i:think(?:ing)?|thoughts?|reasoning(?:_content)?|reflection|scratchpad|analysis|rationale|antthinking)"
_MARK = re.compile(
    rf"(?P<begin><(?:[\w.-]{{1,20}}[:_])?{REASONING}(?:\s[^<>]*(?<!/))?>"
    rf"|<[|｜](?i:begin[_▁]of[_▁]|start_)?{REASONING}(?i:_start|_begin)?[|｜]>"
    r"|\[(?:THINK|THINKING|REASONING)\]|◁think▷|<\|inner_prefix\|>|<unused94>"
    r"|<\|channel>(?=\s*\w)|<\|channel\|>(?!\s*final\b)(?=\s*\w))"
    rf"|(?P<end></(?:[\w.-]{{1,20}}[:_])?{REASONING}\s*>|<[|｜](?i:/|end[_▁]of[_▁]|end_){REASONING}[|｜]>"
    rf"|<[|｜]{REASONING}(?i:_end)[|｜]>|\[/(?:THINK|THINKING|REASONING)\]|◁/think▷|<\|inner_suffix\|>|<unused95>"
    r"|<channel\|>|^\.\.\.done thinking\.$)"
    r"|(?P<answer><\|channel\|>\s*final\b\s*(?:<\|constrain\|>\s*\w*\s*)?(?:<\|message\|>)?|<\|content\|>"
    r"|assistantfinal(?![a-z])|<\|begin_of_(?:solution|box)\|>|<\|START_(?:RESPONSE|TEXT)\|>|\[BEGIN FINAL RESPONSE\]"
    r"|^Here(?: is|'s) my response:)"
    r"|(?P<fold></?details\b[^<>]*>(?:\s*<summary>[^<>]*</summary>)?)",
    re.MULTILINE,
)
_FOLDS_THOUGHTS = re.compile("think|thought|reason", re.IGNORECASE)
_ANSWER_END = re.compile(
    r"(?:(?:<\|(?:end|return|end_of_(?:solution|box)|END_(?:RESPONSE|TEXT))\|>|\[END FINAL RESPONSE\])\s*+)+\Z"
)
_TAGGED = re.compile(r"^\s*<(answer|final_answer|response|output)>(?P<inside>.*)</\1>\s*\Z", re.DOTALL | re.MULTILINE)


def without_thoughts(text: str) -> str:
    """Return `text` without its reasoning, and without a mark of the answer's end.

    Reasoning without an end includes the rest of the text. Reasoning without a beginning includes all text before its
    end, because chat templates may open it.
    """
    kept, depth, folds, position = [], 0, 0, 0
    for mark in _MARK.finditer(text):
        before = folds
        if mark.lastgroup == "fold" and (folds := _folds(folds, mark.group())) == before:
            continue  # a fold of something else
        if depth == before == 0:
            kept.append(text[position : mark.start()])
        if mark.lastgroup == "begin":
            depth += 1
        elif mark.lastgroup == "end" and depth:
            depth -= 1
        elif mark.lastgroup != "fold":
            kept.clear()
        if mark.lastgroup == "answer":
            depth = folds = 0
        position = mark.end()
    answer = _ANSWER_END.sub("", "".join(kept) + (text[position:] if depth == folds == 0 else ""))
    tagged = _TAGGED.search(answer)  # all before an answer in tags of its own is reasoning
    return answer if tagged is None else tagged["inside"]


def _folds(folds: int, mark: str) -> int:
    """Return how many folds are open after a mark, beginning with one of reasoning."""
    return max(folds - 1, 0) if mark.startswith("</") else folds + bool(folds or _FOLDS_THOUGHTS.search(mark))


def with_thoughts(thoughts: str, text: str) -> str:
    """Join both texts for storage, such that `without_thoughts` gives the same for the result as for `text`."""
    if not thoughts:
        return text
    # A mark that is quoted inside the reasoning must not end it.
    return f"<think>{_MARK.sub(lambda mark: '(' + mark.group()[1:], thoughts)}</think>\n{text}"
