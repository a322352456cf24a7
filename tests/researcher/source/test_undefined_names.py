"""A name that nothing gives is said with its line and the nearest there is; honest code raises no alarm."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import researcher
import trainer
from researcher.errors import Rejected
from researcher.source.proposal import Proposal, ProposerName, SearchReplace
from researcher.source.undefined_names import undefined_names
from researcher.source.validation import validate
from tests import TESTS

SMALL = (TESTS / "fixtures" / "small_train.py").read_text()
SOURCES = [*Path(researcher.__file__).parent.rglob("*.py"), *Path(trainer.__file__).parent.glob("subject/*.py")]


def told(source: str) -> list[str]:
    return [undefined.words for undefined in undefined_names(ast.parse(source))]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\nprint(y)\n", "line 2: `y` is not defined"),
        ("MAX_SEQ_LEN = 1\nprint(max_seq_len)\n", "line 2: `max_seq_len` is not defined (there is `MAX_SEQ_LEN`)"),
        ("def f(weights):\n    return weigths\n", "line 2: `weigths` is not defined (there is `weights`)"),
        ("import torch\nx = F.relu(torch)\n", "line 2: `F` is not defined"),
        ("print(step)\nstep = 0\n", "line 1: `step` is read before it has a value"),
        (
            "step = 0\ndef f():\n    print(step)\n    step = 1\n",
            "line 3: `step` is read before this function assigns it",
        ),
        ("def f():\n    max = max(1, 2)\n", "line 2: `max` is read before this function assigns it"),
        ("def f():\n    count += 1\n", "line 2: `count` is read before it has a value"),
        ("x = [a for b in (1, 2)]\n", "line 1: `a` is not defined"),
        ("x = 1\ndel x\nprint(x)\n", "line 3: `x` is read before it has a value"),
        ("class A:\n    def f(self):\n        return slef\n", "line 3: `slef` is not defined (there is `self`)"),
    ],
)
def test_missing_name_is_said_with_its_line(source: str, words: str) -> None:
    assert [said[: len(words)] for said in told(source)] == [words]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    return late\nlate = 1\n",
        "from torch import *\nprint(relu)\n",
        "try:\n    x\nexcept NameError:\n    x = 1\n",
        "step = 0\nwhile step < 3:\n    if step:\n        print(loss)\n    loss = 1\n    step += 1\n",
        "def f():\n    for i in range(3):\n        if i:\n            print(loss)\n        loss = i\n",
        "loss = 1\ndef f():\n    while True:\n        if not_read := 0:\n            print(loss)\n        loss = 2\n",
        "import sys\nif sys:\n    from math import pi\nprint(pi)\n",
        "def f(x: 'Tensor') -> 'Tensor': return x\n",
        "from __future__ import annotations\ndef f(x: Tensor) -> Tensor: return x\n",
        "print(__file__, __name__)\nexit(1)\n",
        "def f():\n    global made\n    made = 1\nf()\nprint(made)\n",
        "class A:\n    width = 1\n    def f(self): return __class__, self.width\n",
        "if (share := 1) and share: print(share)\n",
        "import typing\nx = typing.cast('\\ud800', 1)\n",
    ],
)
def test_honest_source_raises_no_alarm(source: str) -> None:
    assert told(source) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_real_module_raises_an_alarm(path: Path) -> None:
    assert told(path.read_text()) == []


@given(st.text(alphabet="abx=(){}[]:'\"\n 01.,", max_size=100))
def test_no_source_makes_it_raise(text: str) -> None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    undefined_names(tree)


def test_source_that_nests_deeply_has_no_fault_to_show() -> None:
    assert told("x = " + "-" * 900 + "1\n") == []


def test_proposal_with_a_missing_name_is_rejected_and_the_incumbents_own_faults_do_not_count() -> None:
    edit = SearchReplace("        x = torch.relu(x).square()\n", "        x = F.relu(x) + hidden\n")
    proposal = Proposal(ProposerName.LLM, "title", "hypothesis", (edit,))

    with pytest.raises(Rejected, match=r"train\.py would crash: line 26: `F` is not defined; line 26: `hidden` is not"):
        validate(proposal, SMALL, lambda _: None)
    with pytest.raises(Rejected, match=r"train\.py would crash: line 26: `hidden` is not defined$"):
        validate(proposal, SMALL + "if 0:\n    F\n", lambda _: None)
