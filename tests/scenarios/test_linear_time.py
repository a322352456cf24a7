"""Whoever writes what we read decides how long it is and not how long reading takes: work grows as the length does.

Work is counted in lines of Python that run, so no clock decides. What C does for one line (a regular expression, a
parser) is held by a limit of processor seconds that anything proportional to the length keeps hundreds of times over.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

import researcher
import services
import trainer
from researcher.errors import BadLlmResponse, EditError, Rejected
from researcher.prompting.chat_markers import broken, whole
from researcher.prompting.reply_parser import formats_in, one_line, read_reply
from researcher.prompting.source_outline import outline
from researcher.source.definitions import replace_definition
from researcher.source.edits import apply_edits
from researcher.source.knobs import read_knobs, read_literal, set_knobs
from researcher.source.proposal import Proposal, ProposerName, SearchReplace, WholeFile
from researcher.source.validation import validate
from services.machine.gpu_env import faults, read
from tests import ROOT, TESTS
from trainer.jobs import TrialResult
from trainer.jobs.redaction import redaction
from trainer.sandbox.output import LogSink, Output, readable
from trainer.sandbox.step_lines import Printed

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()
EDITED = "TITLE: t\nHYPOTHESIS: h\n"

SHAPES = [
    "~~~ x\nSET A = 1\n", "~~~ x\n", "```\n", "````\n```\n~~~~\n", "```python\n\n",
    "~~~ x\nTITLE: a\n\n\n",
    "FUNCTION f\n```python\ndef f(): pass\n```\n", "<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n", "=======\n",
    "SET A{} = {}\n", "SET A = 1\n", "TITLE: a\n", "\n", "  \n", "\t", "`", "* ", "# ", "<think>", "</think>",
    "[THINK]",
    '{{"title":', "{{\n", "(", "[", '"', "'''", "a.", "a(", "-", "not ", "lambda:", "f'{{", "\\\n", "@", "0", "1,",
    "'a',",
    "x = 1\n", "x{} = {}\n", "x=1;", "if x:\n", "class A{}:\n def f(self): pass\n", "def f{}(): return 1\n",
    "name{}\n",
    "from x import *\n",
    "global x\n", "import a.b.c\n", "K{} = 1  # range ..\n", "..", "range ..", "torch.a", "é", "\r",
    "\x0c", "\x1b[", "\x1b]", "step 00001 (1.0%) | loss: 1\n", "val_bpb: 1\n", "password=", "token 1", "eyJ-", "sk-",
    "://a:", "KEY=1\n", "KEY='", "export ", "<|", "<|im_start|>", "|>", "[INST]", "<", "\u2060", "Constant(value=1",
]  # fmt: skip


def shaped(unit: str, size: int) -> str:
    """As many of `unit` as make `size` characters, numbered where it has a place for a number."""
    count = -(-size // len(unit))
    return "".join(unit.format(at, at) for at in range(count)) if "{" in unit else unit * count


def log(text: str) -> None:
    printed = Printed()
    sink = Output(64, printed, redaction(["bicycle-42"]))
    sink.feed(text.encode("utf-8", "replace"))
    sink.seal()
    sink.finish()
    assert sink.text() is not None
    assert len(printed.curve) <= len(text)


def byte_by_byte(text: str) -> None:
    sink = LogSink(64, lambda _: None, redaction())
    for byte in text.encode("utf-8", "replace"):
        sink.feed(bytes([byte]))
    sink.finish()


def result(text: str) -> None:
    with suppress(ValueError):
        TrialResult.from_json(
            json.loads(json.dumps({"id": text, "reason": text, "probes": {text: 1}, "layers": [text]}))
        )


def proposed(text: str) -> None:
    validate(Proposal(ProposerName.LLM, "t", "h", (WholeFile(f"{SOURCE}{text}\n"),)), SOURCE, lambda _: None)


PARSERS: dict[str, Callable[[str], object]] = {
    "an answer": lambda text: read_reply(EDITED + text),
    "an answer in a fence": lambda text: read_reply(f"{EDITED}```python\n{text}\n```\n"),
    "a block": lambda text: read_reply(f"{EDITED}<<<<<<< SEARCH\n{text}\n=======\n{text}\n>>>>>>> REPLACE\n"),
    "a move": lambda text: read_reply(f'{{"title": "{text}", "hypothesis": "h", "set": {{"A": {text}}}}}'),
    "edit_formats": formats_in,
    "a line": lambda text: one_line(text, 300),
    "marks": lambda text: whole(broken(text)),
    "a literal": read_literal,
    "knobs": read_knobs,
    "a range": lambda text: read_knobs(f"K = 1  # range {text} x\nL = 1  # one of {text}\n"),
    "values": lambda text: set_knobs(SOURCE, {text: 1, "DEPTH": text}),
    "a candidate": proposed,
    "a search": lambda text: apply_edits(SOURCE, [SearchReplace(text, "x")]),
    "a replacement": lambda text: apply_edits(SOURCE, [SearchReplace("    loss.backward()\n", text)]),
    "a definition": lambda text: replace_definition(SOURCE, None, f"def f():\n  {text}\n", 1),
    "a name": lambda text: replace_definition(SOURCE, text, "def f():\n  pass\n", 1),
    "an outline": lambda text: outline(text, 2000, ("f",), 1),
    "a log": log,
    "a log byte by byte": byte_by_byte,
    "a message": lambda text: readable(text, redaction()),
    "gpu.env": lambda text: faults(read(text, "gpu.env"), (), {}),
    "a result": result,
}


def work(parser: Callable[[str], object], text: str) -> int:
    """Lines of Python that run until `text` is read or refused."""
    lines = 0

    def count(_: FrameType, event: str, __: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        parser(text)
    except (Rejected, EditError, BadLlmResponse):
        pass
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("parser", PARSERS)
def test_four_times_the_text_is_at_most_five_times_the_work(parser: str) -> None:
    read = PARSERS[parser]
    work(read, shaped("x", 100))  # what is read once is read here

    steep = {
        unit: found
        for unit in SHAPES
        if (found := (work(read, shaped(unit, 300)), work(read, shaped(unit, 1200))))[1] > 5 * found[0] + 500
    }

    assert steep == {}


@pytest.mark.slow
def test_a_long_text_of_any_shape_is_read_within_the_processor_seconds_of_a_linear_parser() -> None:
    code = "from tests.scenarios import test_linear_time; test_linear_time.read_all()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"{done.returncode}, at {done.stdout[-200:]}: {done.stderr[-2000:]}"


def read_all() -> None:
    """Every shape, 64 KiB of each where that takes no second; a quadratic parser takes half a minute for one."""
    _, hard_s = resource.getrlimit(resource.RLIMIT_CPU)
    for parser, read_text in PARSERS.items():
        size = 4_096 if parser in ("a candidate", "a log byte by byte") else 65_536
        for unit in SHAPES:
            print(parser, repr(unit), flush=True)
            spent_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            resource.setrlimit(resource.RLIMIT_CPU, (int(spent_s) + 12, hard_s))
            with suppress(Rejected, EditError, BadLlmResponse):
                read_text(shaped(unit, size))


def test_a_run_of_what_begins_a_token_is_read_once() -> None:
    """A pattern works in C, where no line is counted: that it matches nothing within a run says that it begins once."""
    hidden = b"eyJ-" * 3 + b"eyJaaaaaaaa.bbbbbbbb.cccccccc"

    assert redaction()(b" " + hidden) == b" [redacted]"
    assert redaction()(b"-" + hidden) == b"-" + hidden


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    for package in (researcher, trainer, services):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "__main__" in found.name or found.name.startswith("trainer.subject"):
                continue
            for name, value in vars(importlib.import_module(found.name)).items():
                if isinstance(value, re.Pattern):
                    yield f"{found.name}.{name}", value


def test_no_pattern_repeats_without_end_what_repeats_without_end() -> None:
    known = list(patterns())

    assert len(known) > 40
    nested = {name for name, pattern in known if _is_nested(re._parser.parse(pattern.pattern, pattern.flags), False)}
    assert nested == {"trainer.data.words._WORD"}, "it parts its repeats by an apostrophe"


def _is_nested(parsed: Any, inside: bool) -> bool:
    """Possessive and atomic parts give nothing back, so what is in them is counted from outside as one."""
    for operator, arguments in parsed:
        name = str(operator)
        endless = name in ("MAX_REPEAT", "MIN_REPEAT") and arguments[1] == re._constants.MAXREPEAT
        if endless and inside:
            return True
        for part in _parts(arguments):
            if _is_nested(part, inside or endless):
                return True
    return False


def _parts(arguments: Any) -> Iterator[Any]:
    if isinstance(arguments, re._parser.SubPattern):
        yield arguments
    elif isinstance(arguments, (tuple, list)):
        for each in arguments:
            yield from _parts(each)
