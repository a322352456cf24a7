"""What every protocol shares of a streamed answer: whole lines of bounded length, text that UTF-8 can carry, counts.

Deadlines and what a line means are the client's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from researcher.errors import ModelFault

LONGEST_ANSWER_BYTES = 8 * 2**20


async def whole_lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Lines ended by LF only: httpx would also split at characters that may stand inside a JSON string."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *complete, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_ANSWER_BYTES:
            raise ModelFault(f"the answer holds a line longer than {LONGEST_ANSWER_BYTES} bytes")
        for line in complete:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def unicode(text: str) -> str:
    """Without half a surrogate pair, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
