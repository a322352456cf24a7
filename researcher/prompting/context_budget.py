"""How one model's context is shared: what a question may take of it, and what is kept for the answer.

Estimates are corrected by how many more tokens the server was seen to count. The answer's part grows once, for the rest
of the run, where a model's thoughts took all of it. It never takes what train.py needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from researcher.errors import BadLlmResponse, PromptTruncated
from researcher.llm.client import Answer, Message
from researcher.prompting.prompt import prompt_tokens

WIDER = 2
SHRUNK = 0.85
# Vocabularies split text at blanks before they make tokens of it, so that a prompt has a token for each word at least;
# usual ones take two to three for a word of code.
FEWEST_TOKENS_PER_WORD = 1.0


class Window:
    """Of `context_tokens` in all, `answer_tokens` are the answer's at first."""

    def __init__(self, context_tokens: int, answer_tokens: int) -> None:
        self._context_tokens = context_tokens
        self._least = answer_tokens
        self._wanted = answer_tokens
        self._undercount = 1.0

    def question(self, build: Callable[[int], Sequence[Message]]) -> Sequence[Message]:
        """What `build` makes of the room for a question, in estimated tokens.

        Raises what it raises (BadLlmResponse) where even the first share of the answer leaves too little.
        """
        try:
            return build(self._room(self._wanted))
        except BadLlmResponse:
            if self._wanted == self._least:
                raise
            return build(self._room(self._least))

    def answer_tokens(self, question: Sequence[Message]) -> int:
        """How long an answer to it may be."""
        free = self._context_tokens - int(prompt_tokens(question) * self._undercount)
        return max(self._least, min(self._wanted, free))

    def widen(self) -> bool:
        """Keep more for answers from now on; False where that was done before."""
        if self._wanted > self._least:
            return False
        self._wanted = WIDER * self._least
        return True

    def learn(self, question: Sequence[Message], answer: Answer) -> None:
        """From what the server counted. Raises PromptTruncated where it cannot have read the whole question."""
        if answer.prompt_tokens is None:
            return
        words = sum(len(message.content.split()) for message in question)
        if answer.counts_cached and answer.prompt_tokens < FEWEST_TOKENS_PER_WORD * words:
            raise PromptTruncated(
                f"the server counted {answer.prompt_tokens} tokens in a question of {words} words: it cut the question "
                f"without a word; look at its own limit of the context, {self._context_tokens} tokens are needed"
            )
        self._undercount = max(self._undercount, answer.prompt_tokens / prompt_tokens(question))

    def shrink(self) -> None:
        """After a refusal of a question as too long: it had more tokens than was thought."""
        self._undercount /= SHRUNK

    def _room(self, answer_tokens: int) -> int:
        return int((self._context_tokens - answer_tokens) / self._undercount)
