"""Two texts of one program have one fingerprint, and two programs have two."""

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer
from researcher.source.fingerprint import read_facts

DEFAULT = (Path(trainer.__file__).parent / "subject" / "train.py").read_text()


def body(*lines: str) -> str:
    return "def f(x, y=1):\n" + "".join(f"    {line}\n" for line in lines)


SAME = [
    ("x = 6e-1\n", "x = 0.60\n"),
    ("x = 2**16\n", "x = 65536\n"),
    ("x = 65_536\n", "x = 1 << 16\n"),
    ("x = 4 * 2**10 - 96\n", "x = 4000\n"),
    ("x = 10**4\n", "x = 10_000\n"),
    ("x = 0x10\n", "x = 16\n"),
    ("f(1, a=2, b=x.y, c=-3)\n", "f(1, c=-3, b=x.y, a=2)\n"),
    ("x = 'a' 'b'\n", 'x = "ab"\n'),
    ("x = u'a'\n", "x = 'a'\n"),
    (body("h = x + 1", "return h"), body("hidden = x + 1", "return hidden")),
    (body("a, b = x", "a += b", "return lambda: a"), body("c, d = x", "c += d", "return lambda: c")),
    (body("for i in x: print(i)"), body("for step in x: print(step)")),
    (
        body("def g():", "    v = 1", "    return v", "return g"),
        body("def g():", "    w = 1", "    return w", "return g"),
    ),
    ("class A:\n    def f(self):\n        q = self.q\n", "class A:\n    def f(self):\n        k = self.q\n"),
]
DIFFERENT = [
    ("x = 1000\n", "x = 1e3\n"),
    ("x = 2**-1\n", "x = 0\n"),
    ("x = 3 - 4\n", "x = 1\n"),
    ("f(a=g(), b=h())\n", "f(b=h(), a=g())\n"),
    ("f(**a, b=1)\n", "f(b=1, **a)\n"),
    ("x = dict(a=1, b=2)\n", "x = dict(b=2, a=1)\n"),
    ("f(1, 2)\n", "f(2, 1)\n"),
    ("h = x + 1\n", "hidden = x + 1\n"),
    (body("h = x", "k = y", "return h"), body("h = x", "k = y", "return k")),
    ("def f(x): return x\n", "def f(z): return z\n"),
    (body("global h", "h = x"), body("global k", "k = x")),
    (body("h = x", "return locals()"), body("k = x", "return locals()")),
    (body("h = [i for i in x]", "return i"), body("h = [j for j in x]", "return j")),
    ("def f(x=h):\n    h = 1\n", "def f(x=k):\n    k = 1\n"),
    (
        body("h = x", "def f():", "    k = y", "    return h", "return f"),
        body("h = x", "def f():", "    k = y", "    return k", "return f"),
    ),
    (
        body("h = x", "def g():", "    nonlocal h", "    h = 1"),
        body("k = x", "def g():", "    nonlocal k", "    k = 2"),
    ),
    (body("h = x", "return lambda h: h"), body("k = x", "return lambda h: k")),
    (body("print(x)", "x = 1"), body("print(h)", "h = 1")),
    (body("import math as h", "return h.e"), body("import cmath as h", "return h.e")),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_program_in_two_texts_has_one_fingerprint(one: str, other: str) -> None:
    assert read_facts(one).fingerprint == read_facts(other).fingerprint


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_programs_have_two(one: str, other: str) -> None:
    assert read_facts(one).fingerprint != read_facts(other).fingerprint


@settings(max_examples=10)
@given(
    st.sampled_from(["width", "strength", "matrices", "left", "tall", "bound"]),
    st.from_regex("[a-z]{1,8}_7", fullmatch=True),
)
def test_a_local_name_of_the_default_subject_may_be_any_other(name: str, other: str) -> None:
    tree = ast.parse(DEFAULT)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _assigns(node, name)]
    renamed = [node for node in ast.walk(functions[0]) if isinstance(node, ast.Name) and node.id == name]
    for node in renamed:
        node.id = other

    assert read_facts(ast.unparse(tree)).fingerprint == read_facts(DEFAULT).fingerprint


def test_a_local_name_more_leaves_the_change_made_elsewhere_in_the_function_what_it_is() -> None:
    old, new = body("h = x", "return h * 2"), body("g = x", "h = g", "return h * 2")

    assert read_facts(old).statements[-1] == read_facts(new).statements[-1]


def test_a_seed_inside_a_function_is_known_by_its_name() -> None:
    one, other = body("seed = 1", "manual_seed(seed)"), body("seed = 2", "manual_seed(seed)")

    assert read_facts(one).seedless == read_facts(other).seedless
    assert read_facts(one).fingerprint != read_facts(other).fingerprint


def _assigns(function: ast.FunctionDef, name: str) -> bool:
    parameters = {argument.arg for argument in function.args.args}
    return name not in parameters and any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(function)
    )
