"""Imports a script's modules before its first line, so that the time for imports does not count as training.

Promises: only modules of installed packages are imported, so no code of a candidate runs, and only those that the
script imports itself. Does not cover imports inside functions; their time counts like any other.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

# The first optimiser and the first compilation import these modules, which takes a processor second each.
_IMPORTED_LATE = {"torch.optim": ("torch._dynamo",), "torch.compile": ("torch._dynamo", "torch._inductor.compile_fx")}

# Packages without their driver, or for another version, raise any of these. Any other exception ends the process.
_WHILE_IMPORTING = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip


def preload(source: bytes, folder: Path, *, has_gpu: bool) -> None:
    """Import the modules that a script imports at its top level, except its own files in `folder`.

    A module that fails to import is left to the script, which will meet the same error, and may catch it.
    """
    before = list(sys.path)
    sys.path[:] = [place for place in before if Path(place or ".").resolve() != folder.resolve()]
    try:
        for name in wanted(source, has_gpu=has_gpu):
            if not _is_local(name, folder):
                with contextlib.suppress(*_WHILE_IMPORTING):
                    importlib.import_module(name)
    finally:
        sys.path[:] = before


def wanted(source: bytes, *, has_gpu: bool) -> list[str]:
    """Return the modules that a source imports at its top level, in order, and those that torch will import for it.

    Without a GPU a top-level `if` is ignored, since it may be for a GPU. A source that is no Python gives no modules.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: dict[str, None] = {}
    for statement in _at_once(body, has_gpu=has_gpu):
        names |= dict.fromkeys(_imported(statement))
        names |= dict.fromkeys(module for used in _used(statement) for module in _IMPORTED_LATE.get(used, ()))
    return list(names)


def _at_once(body: list[ast.stmt], *, has_gpu: bool) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If) and not has_gpu:
            continue
        yield statement


def _imported(statement: ast.stmt) -> Iterator[str]:
    for node in _outside_functions(statement):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.module


def _outside_functions(statement: ast.stmt) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += reversed(list(ast.iter_child_nodes(node)))


def _used(statement: ast.stmt) -> Iterator[str]:
    """Yield the dotted names that a statement uses or imports anywhere, such as `torch.optim` or `torch.compile`."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_local(name: str, folder: Path) -> bool:
    first = name.partition(".")[0]
    return first == "__main__" or (folder / f"{first}.py").exists() or (folder / first).exists()
