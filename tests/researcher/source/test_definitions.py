"""A definition is found by its qualified name and replaced whole; nothing around it changes by a byte."""

import ast
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer
from researcher.errors import EditError
from researcher.source.definitions import defined_name, replace_definition
from researcher.source.edits import apply_edits
from researcher.source.proposal import Proposal, ProposerName, ReplaceFunction, SetKnobs, WholeFile

SUBJECT = (Path(trainer.__file__).parent / "subject" / "train.py").read_text()
SOURCE = """\
import torch


def norm(x):  # ä
    return x


class Block:
    scale = 1

    @torch.compile(  # decorated
        mode="max",
    )
    @staticmethod
    def forward(x):
        def norm(y):
            return y

        return norm(x)  # the end

    async def read(self): return 1

    @property
    def width(self):
        return 1

    @width.setter
    def width(self, value):
        pass


if torch.cuda.is_available():
    def fast(): return 1
else:
    def fast(): return 2

def last():
    return norm"""


NESTED = "def norm(y):\n            return y"
READ = "async def read(self): return 1"


def replaced(name: str | None, definition: str, source: str = SOURCE) -> str:
    return apply_edits(source, [ReplaceFunction(name, definition)])


@pytest.mark.parametrize(
    ("name", "definition", "old", "new"),
    [
        ("norm", "def norm(x):\n    return 2\n", "def norm(x):  # ä\n    return x\n", "def norm(x):\n    return 2\n"),
        ("Block.forward.norm", "def norm(y):\n\n    return 2", NESTED, "def norm(y):\n\n            return 2"),
        ("Block.forward.<locals>.norm", "def norm(y): return 0", NESTED, "def norm(y): return 0"),
        ("Block.read", "    async def read(self):\n        pass\n", READ, "async def read(self):\n        pass"),
        ("read", "def read(self):\n  pass\n", READ, "def read(self):\n      pass"),
        (
            None,
            "# here\ndef last():\n    return 1  # so\n#\n",
            "def last():\n    return norm",
            "def last():\n    return 1  # so",
        ),
    ],
)
def test_definition_takes_the_place_and_the_indentation_of_the_old_one(
    name: str | None, definition: str, old: str, new: str
) -> None:
    assert SOURCE.count(old) == 1
    assert replaced(name, definition) == SOURCE.replace(old, new)


def test_decorators_go_with_the_old_definition_and_come_with_the_new() -> None:
    start, end = SOURCE.index("@torch.compile"), SOURCE.index("\n\n    async")

    changed = replaced("Block.forward", "@staticmethod\ndef forward(x):\n    return x")

    assert changed == SOURCE[:start] + "@staticmethod\n    def forward(x):\n        return x" + SOURCE[end:]


def test_text_inside_the_definition_is_not_indented_and_its_docstring_is() -> None:
    definition = 'def read(self):\n    """One.\n\n    Two.\n    """\n    return """a\n    b""" + f"""c\n{self}\n"""\n'

    changed = replaced("Block.read", definition)

    assert '        """One.\n\n        Two.\n        """\n' in changed
    assert '        return """a\n    b""" + f"""c\n{self}\n"""\n\n    @property' in changed


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_tabs_and_a_missing_last_one_survive(end: str) -> None:
    source = f"class A:{end}\tdef f(self):{end}\t\treturn 1{end}\tb = '\\n'\t{end}{end}def g():{end}\treturn 2"

    changed = replaced("A.f", "def f(self):\n    x = 1\n    return x", replaced("g", "def g(): return 3", source))

    assert changed == source.replace("\t\treturn 1", f"\t    x = 1{end}\t    return x").replace(
        f"g():{end}\treturn 2", "g(): return 3"
    )


@pytest.mark.parametrize(
    ("name", "definition", "says"),
    [
        ("width", "def width(self): pass", r"defines width 2 times \(Block.width in line 2\d, Block.width in line"),
        ("fast", "def fast(): pass", r"defines fast 2 times \(fast in line 33, fast in line 35\); write its qualified"),
        (None, "def norm(x): pass", r"defines norm 2 times \(norm in line 4, Block.forward.norm in line 16\)"),
        ("Block.forwrad", "def forwrad(x): pass", "edit 1: train.py defines no Block.forwrad; it has Block.forward"),
        ("Blocks.forward", "def forward(x): pass", "defines no Blocks.forward"),
        ("norm", "x = 1", "wants one whole def or class"),
        ("norm", "def norm(x): pass\nx = 1", "wants one whole def or class"),
        ("norm", "def norm(x:", "the definition does not parse: line 1"),
        ("norm", "", "wants one whole def or class"),
    ],
)
def test_name_that_is_not_there_once_is_refused_with_the_lines(name: str | None, definition: str, says: str) -> None:
    with pytest.raises(EditError, match=says):
        replaced(name, definition)


def test_journal_gives_every_edit_back_as_it_was() -> None:
    edits = (SetKnobs({"A": (1, 0.5), "B": True, "C": 1, "D": 1.0}), ReplaceFunction(None, "x"), WholeFile("x"))
    proposal = Proposal(ProposerName.LLM, "t", "h", edits)

    read = Proposal.from_json(proposal.to_json())

    assert read == proposal
    assert repr(read.edits) == repr(proposal.edits), "True is not 1"


@settings(max_examples=20)
@given(st.data())
def test_every_definition_of_a_real_script_can_be_replaced_by_itself_and_nothing_changes(data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    source = SUBJECT.replace("\n", end)
    nodes = [node for node in ast.walk(ast.parse(SUBJECT)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    node = data.draw(st.sampled_from(nodes))
    lines = SUBJECT.splitlines(keepends=True)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    text = "".join(lines[first - 1 : node.end_lineno])
    text = data.draw(st.sampled_from([text, textwrap.dedent(text)]))

    assert defined_name(text) == node.name
    if [each.name for each in nodes].count(node.name) == 1:
        assert replace_definition(source, None, text, 1) == source
    else:  # `forward` of several classes
        with pytest.raises(EditError, match=f"defines {node.name} "):
            replace_definition(source, None, text, 1)


@given(
    st.lists(st.sampled_from(["def f(a):", "  return 1", "@f", "class A:", "\tpass", "x", "'''", "\\"]), max_size=9),
    st.lists(st.sampled_from([" def f(a):", "  return 1", "@(", "f)", "def f(a): pass", '"""', "\0"]), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r", "\x0c\n"]),
)
def test_no_definition_raises_anything_but_the_refusal(source: list[str], definition: list[str], end: str) -> None:
    with suppress(EditError):
        replaced(None, end.join(definition), end.join(source))
