"""Estimates the tokens of a text, and divides a model's context between the question and the answer.

Estimates need no vocabulary. Common vocabularies split text at words, signs and digits. Words and short runs of signs
take few tokens. A digit, a byte of another script, and a character of keys or base64 take one token each. The server's
token counts correct the estimates for its model, upwards and downwards.

The answer's part grows once, for the rest of the run, after reasoning has used up all of it. It never takes the room
that train.py needs.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Sequence

from researcher.errors import BadLlmResponse, PromptTruncated
from researcher.llm.client import Answer, Message

WIDER = 2
SHRUNK = 0.85
COUNTED_ANSWERS = 5  # the latest server counts, of which the highest decides
LEAST_RATIO = 0.5  # no vocabulary needs fewer tokens; a server that counts fewer leaves cached ones out
RATIO_STEP = 0.05  # the correction changes in steps, so that consecutive prompts keep the same beginning
# Vocabularies split text at blanks before they make tokens of it, so a prompt has at least one token for each word;
# usual ones take two to three for a word of code.
FEWEST_TOKENS_PER_WORD = 1.0
WORDS_TOKENS = 200  # title, hypothesis and fences beside the code of an answer
MESSAGE_TOKENS = 16  # added by a chat template around each message
BYTES_PER_TOKEN = 3  # plain Python or English has 3 to 4
# Keys and base64; a digit and the blank before it; a word; an indentation; signs; the rest.
_PIECE = re.compile(r"([A-Za-z0-9+/=]{24,})| ?\d|([A-Z]*[a-z]+|[A-Z]+)|( {2,})|([!-/:-@\[-`{-~]+)|([^ ])")
_WORD, _BLANKS, _SIGNS = 7, 8, 2  # characters in a token
_ORDINARY_SIGNS = 8  # a longer run of signs is not code


class Window:
    """A context of `context_tokens` of one model, of which the answer gets `answer_tokens` at first."""

    def __init__(self, context_tokens: int, answer_tokens: int) -> None:
        self._context_tokens = context_tokens
        self._least = answer_tokens
        self._wanted = answer_tokens
        self._counted: deque[float] = deque(maxlen=COUNTED_ANSWERS)  # the server's count / the estimate

    def question(self, build: Callable[[int], Sequence[Message]]) -> Sequence[Message]:
        """Return the result of `build`, called with the room for a question in estimated tokens.

        Raises the BadLlmResponse of `build` if even the answer's first share leaves too little room.
        """
        try:
            return build(self._room(self._wanted))
        except BadLlmResponse:
            if self._wanted == self._least:
                raise
            return build(self._room(self._least))

    def answer_tokens(self, question: Sequence[Message]) -> int:
        """Return the longest allowed answer to a question, in tokens."""
        free = self._context_tokens - math.ceil(prompt_tokens(question) * self._ratio)
        return max(self._least, min(self._wanted, free))

    def holds_answer(self, text: str) -> bool:
        """Return True if an answer has room for `text`, and for a few words beside it."""
        return math.ceil(tokens(text) * self._ratio) + WORDS_TOKENS <= self._wanted

    def widen(self) -> bool:
        """Reserve more room for answers from now on. Return False if that was done before."""
        if self._wanted > self._least:
            return False
        self._wanted = WIDER * self._least
        return True

    def learn(self, question: Sequence[Message], answer: Answer) -> None:
        """Correct the estimate by the server's count.

        Raises PromptTruncated if the server cannot have read the whole question.
        """
        if answer.prompt_tokens is None:
            return
        words = sum(len(message.content.split()) for message in question)
        if answer.counts_cached and answer.prompt_tokens < FEWEST_TOKENS_PER_WORD * words:
            raise PromptTruncated(
                f"the server counted {answer.prompt_tokens} tokens in a question of {words} words: it cut the question "
                f"silently. Next: raise the server's context limit to at least {self._context_tokens} tokens"
            )
        if answer.counts_cached or answer.prompt_tokens > prompt_tokens(question) * self._ratio:
            self._counted.append(answer.prompt_tokens / prompt_tokens(question))

    def shrink(self) -> None:
        """Use less of the context from now on, because the server refused a question as too long."""
        self._context_tokens = int(self._context_tokens * SHRUNK)

    @property
    def _ratio(self) -> float:
        """Return the tokens of this model for each estimated token; 1 before the first count."""
        if not self._counted:
            return 1.0
        return math.ceil(max(LEAST_RATIO, *self._counted) / RATIO_STEP) * RATIO_STEP

    def _room(self, answer_tokens: int) -> int:
        return int((self._context_tokens - answer_tokens) / self._ratio)


def prompt_tokens(messages: Sequence[Message]) -> int:
    """Return the estimated tokens of a conversation."""
    return sum(tokens(message.content) + MESSAGE_TOKENS for message in messages)


def tokens(text: str) -> int:
    """Return an estimate that is rather too high."""
    size = len(text.encode("utf-8", "replace"))
    return max(-(-size // BYTES_PER_TOKEN), sum(map(_piece_tokens, _PIECE.finditer(text))))


def _piece_tokens(piece: re.Match[str]) -> int:
    found = piece.group()
    match piece.lastindex:
        case 2:
            return -(-len(found) // _WORD)
        case 3:
            return -(-len(found) // _BLANKS)
        case 4 if len(found) <= _ORDINARY_SIGNS:
            return -(-len(found) // _SIGNS)
    return len(found.encode("utf-8", "replace"))
