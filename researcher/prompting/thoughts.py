"""Thoughts that stand in the text of an answer, and the answer without them.

Models write them between tags that their server did not take away. Whatever is inside, an edit too, was only weighed.
Where the tags do not balance, more is taken for a thought rather than less.
"""

from __future__ import annotations

import re

_TAG = re.compile(r"<(/?)(?i:think|thinking|thought|reasoning)\s*>|\[(/?)THINK\]")


def without_thoughts(text: str) -> str:
    """`text` without its thoughts: one that never ends takes the rest, one that never began all before it, for chat
    templates open the first."""
    kept, depth, position = [], 0, 0
    for tag in _TAG.finditer(text):
        if depth == 0:
            kept.append(text[position : tag.start()])
        if not (tag.group(1) or tag.group(2)):
            depth += 1
        elif depth:
            depth -= 1
        else:
            kept.clear()
        position = tag.end()
    return "".join(kept) + (text[position:] if depth == 0 else "")


def with_thoughts(thoughts: str, text: str) -> str:
    """One text of both, to be stored; what `without_thoughts` leaves of it is what it leaves of `text`."""
    if not thoughts:
        return text
    # A tag that the thoughts speak of must not end them.
    return f"<think>{_TAG.sub(lambda tag: '(' + tag.group()[1:], thoughts)}</think>\n{text}"
