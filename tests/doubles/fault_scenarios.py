"""The faults of small local models and their servers, one row each: the server's turns and the expected message.

The subject is the tiny one, with knobs; LEVEL is for the scripted trainer. After each row the server gives an answer
that only makes LEVEL worse, so that the incumbent never changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat

from tests import TESTS
from tests.doubles.ollama_server import Turn

TINY = TESTS / "subjects" / "tiny"
KNOBS = """\
LEVEL = 1.8  # the score itself; range 1.0..2.0
RATE = 20.0  # of the descent; range 1.0..50.0
SEED = 7
tokenizer = Tokenizer"""
TRAIN = (
    (TINY / "train.py")
    .read_text()
    .replace("tokenizer = Tokenizer", KNOBS)
    .replace("manual_seed(7)", "manual_seed(SEED)")
    .replace("20.0 * model", "RATE * model")
)
FILES = {"train.py": TRAIN, "prepare.py": (TINY / "prepare.py").read_text(), "program.md": "Go down.\n"}

HEAD = "TITLE: {name}\nHYPOTHESIS: It may help.\n"
WORSE = "SET LEVEL = 1.9\n"
RATE = "RATE = 20.0  # of the descent; range 1.0..50.0"


@dataclass(frozen=True)
class Scenario:
    """`said` is expected in the log and in the next question; None if the answer is good nevertheless.

    `turns` are the server's turns, that of a repair included. With `of_server` the next question does not mention it.
    """

    name: str
    turns: tuple[Turn, ...]
    said: str | None
    refusals: int = 1
    of_server: bool = False


def _row(name: str, *turns: Turn, said: str | None) -> Scenario:
    return Scenario(name, turns, said)


def _answer(name: str, edits: str, said: str | None) -> Scenario:
    """Return a scenario whose answer stays as bad in its repair."""
    if said is None:
        return _row(name, Turn(HEAD.format(name=name) + edits + WORSE), said=None)
    return Scenario(name, (Turn(HEAD.format(name=name) + edits),) * 2, said)


def _swap(old: str, new: str) -> str:
    return f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


def _file(text: str) -> str:
    return f"```python\n{text}```\n"


def _fault(name: str, fault: str, said: str, latency_s: float = 0.0) -> Scenario:
    text = HEAD.format(name=name) + _swap(RATE, "RATE = 19.0") * 3
    turn = Turn(text, fault, latency_s=latency_s)  # type: ignore[arg-type]
    return Scenario(name, (turn,), said, of_server=True)


NO_IDEA = Turn("asdf ;; %% 0x0x 良い \x07 no edits {{{")
DECOY = HEAD.format(name="decoy") + "SET RATE = 50.0\n"
AGAIN = _swap("SEED = 7\ntokenizer", "SEED = 7\nrate = RATE\ntokenizer")
FORWARD = """\
def forward(self, x, y=None, reduction="mean"):
    scores = self.table[x] * 0.9
    return scores if y is None else nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction=reduction)
"""
WHOLE = TRAIN.replace("LEVEL = 1.8", "LEVEL = 1.9").replace(
    "randn(vocab_size, vocab_size) * 0.1", "zeros(vocab_size, vocab_size)"
)

SCENARIOS = (
    Scenario("garbage ten times", (NO_IDEA,) * 20, "holds no edit", refusals=10),
    _row("empty answer", Turn(""), said="the answer is empty"),
    _fault("404, the model is gone", "model_missing", "does not have the model"),
    _fault("500, the runner died", "server_error", "refused the question (500)"),
    _fault("503, the queue is full", "busy", "answers 503"),
    _fault("context over by one token", "one_token_over", "exceeds the available context size"),
    _fault("hang", "hang", "took the question and sent nothing"),
    _fault("dropped before the answer", "drop_before_stream", "nothing usable answers"),
    _fault("dropped in the middle", "drop_mid_stream", "broke off in the middle"),
    _fault("silent in the middle", "stall", "stopped in the middle"),
    _fault("slow trickle", "slow_trickle", "after its first word", latency_s=0.05),
    _fault("an error in the stream", "error_line", "broke off with: an error was encountered"),
    _fault("a stream that is no JSON", "garbage_line", "is not JSON"),
    _fault("no last line", "no_done", "without saying `done`"),
    _row("thoughts alone", *(Turn("Hm. " * 9, "thoughts_only"),) * 2, said="empty but for its thoughts"),
    _row("thoughts alone, in tags", Turn(f"<think>{DECOY}"), said="empty but for its thoughts"),
    _row("a decoy in the thoughts", *(Turn(f"<think>{DECOY}</think>I cannot say."),) * 2, said="holds no edit"),
    _row("JSON cut off", *(Turn('{"title": "t", "hypothesis": "h", "set": {"RATE": 1', length=True),) * 2,
         said="was cut off at its longest"),
    _row("JSON cut off, not said so", *(Turn('{"title": "t", "hypothesis": "h", "set": {"RATE": 1'),) * 2,
         said="was the answer cut off?"),
    _row("a file cut off", *(Turn(HEAD + _file(TRAIN)[:700], length=True),) * 2, said="was cut off at its longest"),
    _answer("a file cut off, not said so", _file(TRAIN)[:700], "was the answer cut off?"),
    _answer("two fences", "```\nRATE = 2.0\n```\n```\nRATE = 3.0\nSEED = 4\n```\n", "is set twice"),
    _answer("CRLF", _swap(RATE, "RATE = 18.0").replace("\n", "\r\n"), None),
    _answer("markers in a docstring", _file('"""\n<<<<<<< SEARCH\n=======\n>>>>>>> REPLACE\n"""\n' + TRAIN),
            "searches for nothing"),
    _answer("code with a marker in it", _swap(RATE, 'RATE = len("""\n=======\n""") + 9.0'), "2 lines '======='"),
    _answer("code with markers in its lines", _swap(RATE, 'RATE = len("<<<<<<< SEARCH =======") * 1.0'), None),
    _answer("search text missing", _swap("learning_rate = 3", "learning_rate = 4"), "does not stand in train.py"),
    _answer("search text twice", _swap("model.table.grad", "model.table.grad.sign()"), "places in train.py"),
    _answer("search text wrong in the middle", _swap(f"{RATE}\nSEED = 8\ntokenizer", "SEED = 7\ntokenizer"),
            "does not stand in train.py"),
    _answer("syntax error", _swap(RATE, "RATE = (20.0"), "does not parse"),
    _answer("undefined name", _swap(RATE, "RATE = rate_of(3)"), "would crash"),
    _answer("nothing changed", _swap(RATE, RATE), "change nothing"),
    _answer("a comment changed", _swap(RATE, f"{RATE} "  "really"), "only comments"),
    _answer("an edit", AGAIN, None),
    _answer("the same edit", AGAIN + WORSE, "the same code was tried before"),
    _answer("the same edit again", AGAIN + WORSE, "the same code was tried before"),
    _answer("only the seed", _swap("SEED = 7", "SEED = 8"), "only the random seed"),
    _answer("an edit of prepare.py", _swap("MAX_SEQ_LEN = 32", "MAX_SEQ_LEN = 16"), "does not stand in train.py"),
    _answer("no evaluation", _swap("val_bpb = evaluate_bpb(model, tokenizer, 8)", "val_bpb = 0.1"), "must keep"),
    _answer("a network", _swap("import torch", "import socket\nimport torch"), "may not do this"),
    _answer("out of range", "SET RATE = 900.0\n", None),
    _answer("no such function", "FUNCTION Bigrams.backward\n```\ndef backward(self):\n    pass\n```\n", "backward"),
    _answer("a method", f"FUNCTION Bigrams.forward\n{_file(FORWARD)}", None),
    _row("a whole file with CRLF", Turn((HEAD.format(name="file") + _file(WHOLE)).replace("\n", "\r\n")), said=None),
    _row("tabs and control characters in the hypothesis",
         Turn("TITLE: größer\t\x1b[31m良\u202e\nHYPOTHESIS:\ta\x00\u200b b\nSET RATE = 17.0\n" + WORSE), said=None),
)  # fmt: skip


def good_answers() -> Iterator[Turn]:
    """Yield different answers, each worse than the one before."""
    return (Turn(nudge="LEVEL", by=1.02 + number / 1000) for number, _ in enumerate(repeat(None)))


def script() -> Iterator[tuple[Scenario | None, Turn]]:
    """Yield a good answer, then each row and a good answer after it."""
    goods = good_answers()
    yield None, next(goods)
    for row in SCENARIOS:
        yield from ((row, turn) for turn in row.turns)
        yield None, next(goods)
    yield from chain((None, turn) for turn in goods)
