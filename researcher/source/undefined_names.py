"""Names that a source uses and nothing gives it: what pyflakes knows, without what an honest script may do.

Only names that are surely missing when the line is reached are told; all else that pyflakes minds is nobody's business
here. What nests too deeply for it has no fault to show: a trial finds out.
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
    """Every name that a source or Python itself gives, by its small letters; read when one is asked for."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree

    @cached_property
    def names(self) -> dict[str, str]:
        return {each.lower(): each for each in _given(self._tree)}


@dataclass(frozen=True)
class Undefined:
    """A name and the line where it is missing."""

    name: str
    line: int
    is_local: bool
    given: _Given = field(repr=False, compare=False)

    @property
    def words(self) -> str:
        """For the proposer. Looks for the nearest name that there is, so ask only for those that are told."""
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
    """In the order of their lines, each name once."""
    try:
        messages = Checker(tree, "train.py", withDoctest=False).messages
    except (RecursionError, ValueError):  # ValueError: a text that it takes for an annotation, and cannot be source
        return ()
    missing = [message for message in messages if isinstance(message, UndefinedName | UndefinedLocal)]
    if not missing:
        return ()
    excused = _never_evaluated(tree) | _assigned_in_an_earlier_round(tree)
    found: dict[str, Undefined] = {}
    given = _Given(tree)
    for message in sorted(missing, key=lambda message: (message.lineno, message.col)):
        told = message.message_args  # of a builtin that becomes local the name alone, else a tuple
        name = told if isinstance(told, str) else told[0]
        if (message.lineno, message.col, name) not in excused and name not in found:
            found[name] = Undefined(name, message.lineno, isinstance(message, UndefinedLocal), given)
    return tuple(found.values())


def _given(tree: ast.Module) -> Iterator[str]:
    """Every name that anything in the source or Python itself gives."""
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
    """Names in annotations that stay text: quoted ones, and all of them where the source asks for that."""
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
    """Names read in a loop that assigns them: `if step > 0: print(loss)` before `loss = ...` is honest."""
    found = set()
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For | ast.While):
            names = [node for node in ast.walk(loop) if isinstance(node, ast.Name)]
            stored = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
            found |= {(name.lineno, name.col_offset, name.id) for name in names if name.id in stored}
    return found
