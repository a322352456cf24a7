"""Finds undefined names with pyflakes, without reports on uses that an honest script may contain.

Only names that are certainly undefined when their line runs are reported; other messages of pyflakes are ignored. A
source that nests too deeply for pyflakes gets no report, and its trial decides.
"""

from __future__ import annotations

import ast
import builtins
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from pyflakes.checker import Checker
from pyflakes.messages import UndefinedLocal, UndefinedName


class _Given:
    """All names that the source or Python defines, by their lower-case form; collected on first use."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree

    @cached_property
    def names(self) -> dict[str, str]:
        return {each.lower(): each for each in _given(self._tree)}


@dataclass(frozen=True)
class Undefined:
    """An undefined name and its line."""

    name: str
    line: int
    is_local: bool
    given: _Given = field(repr=False, compare=False)

    @property
    def words(self) -> str:
        """The fault as text for the proposer.

        It searches for the nearest defined name, so use it only for reported faults.
        """
        if self.is_local:
            return (
                f"line {self.line}: `{self.name}` is read before this function assigns it, "
                "which makes it a local name there"
            )
        known = self.given.names
        if known.get(self.name.lower()) == self.name:
            return f"line {self.line}: `{self.name}` is read before it has a value"
        near = difflib.get_close_matches(self.name.lower(), known, n=1)
        return f"line {self.line}: `{self.name}` is not defined" + (f" (there is `{known[near[0]]}`)" if near else "")


def undefined_names(tree: ast.Module) -> tuple[Undefined, ...]:
    """Return the undefined names by line, each once."""
    try:
        messages = Checker(tree, "train.py", withDoctest=False).messages
    except (RecursionError, ValueError):  # ValueError: a text that pyflakes takes for an annotation but cannot parse
        return ()
    missing = [message for message in messages if isinstance(message, UndefinedName | UndefinedLocal)]
    if not missing:
        return ()
    excused = _never_evaluated(tree) | _assigned_in_an_earlier_round(tree)
    found: dict[str, Undefined] = {}
    given = _Given(tree)
    for message in sorted(missing, key=lambda message: (message.lineno, message.col)):
        arguments = message.message_args  # a tuple, or the name alone for a builtin that becomes local
        name = arguments if isinstance(arguments, str) else arguments[0]
        if (message.lineno, message.col, name) not in excused and name not in found:
            found[name] = Undefined(name, message.lineno, isinstance(message, UndefinedLocal), given)
    return tuple(found.values())


def _given(tree: ast.Module) -> Iterator[str]:
    """Yield all names that the source or Python defines."""
    yield from dir(builtins)
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=given):
                yield given or name.partition(".")[0]


def _never_evaluated(tree: ast.Module) -> set[tuple[int, int, str]]:
    """Return names in annotations that are not evaluated: quoted ones, or all if the source postpones evaluation."""
    postponed = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    found = set()
    for node in ast.walk(tree):
        annotations = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for annotation in filter(None, annotations):
            for part in ast.walk(annotation):
                if isinstance(part, ast.Name) and postponed:
                    found.add((part.lineno, part.col_offset, part.id))
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    found |= {(part.lineno, part.col_offset, name) for name in _names_in(part.value)}
    return found


def _names_in(text: str) -> set[str]:
    try:
        return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()


def _assigned_in_an_earlier_round(tree: ast.Module) -> set[tuple[int, int, str]]:
    """Return names read in a loop that assigns them: `if step > 0: print(loss)` before `loss = ...` is honest."""
    found = set()
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For | ast.While):
            names = [node for node in ast.walk(loop) if isinstance(node, ast.Name)]
            stored = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
            found |= {(name.lineno, name.col_offset, name.id) for name in names if name.id in stored}
    return found
