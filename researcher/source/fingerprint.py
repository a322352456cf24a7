"""Fingerprints: identify the program of a source, independent of its layout, its comments and its seed.

Statements at module level are read one by one and cached, because a candidate differs from earlier sources in only a
few. This module never runs the source.

Equal programs have one normal form: without docstrings, with integer arithmetic computed, keyword arguments sorted, and
local variables numbered. The normal form drops nothing that could change an honest program; names that are visible
outside of a function stay. Different fingerprints may still belong to equal programs.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from researcher.errors import EditError
from researcher.source.syntax import Bytes, parse, stored_outside_functions, worked_out

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SEE_NAMES = {"locals", "vars", "dir", "eval", "exec"}
_SEE_ORDER = {"dict", "OrderedDict"}
_ANY_ORDER = (ast.Constant, ast.Name, ast.Attribute, ast.UnaryOp, ast.Tuple, ast.expr_context, ast.unaryop)


def normalised(source: str) -> ast.Module:
    """Return the normalised syntax tree. Raises EditError for a source that does not parse."""
    tree = parse(source)
    for node in reversed([*ast.walk(tree)]):  # inner nodes first
        for block in blocks(node):
            code = [statement for statement in block if not _is_lone_constant(statement)]
            block[:] = code if code or isinstance(node, ast.Module) else [ast.Pass()]
        match node:
            case ast.Constant():
                node.kind = None
            case ast.Call(func=ast.Name(id=name)) if name in _SEE_ORDER:
                pass
            case ast.Call() if all(keyword.arg and _any_order(keyword.value) for keyword in node.keywords):
                node.keywords.sort(key=lambda keyword: keyword.arg or "")
        _work_out_numbers(node)
    return tree


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the lists of statements in a node."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block


def number_locals(tree: ast.Module) -> None:
    """Rename each function's own variables by the order of their appearance, if no other scope could use the name.

    Parameters, names that an inner scope also binds, and seeds keep their names: callers use parameter names, and seeds
    are recognised by name.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    for place, function in enumerate(functions):
        names = [node for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Name)]
        if any(name.id in _SEE_NAMES for name in names):
            continue
        own, taken = _bound(function)
        numbers: dict[str, str] = {}
        for name in names:
            if name.id in own and name.id not in taken and "seed" not in name.id.lower():
                name.id = numbers.setdefault(name.id, f"{len(numbers)} of {place}")


def _bound(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[set[str], set[str]]:
    """Return the variables that the function's own code assigns, and the names that are bound otherwise inside it."""
    own: set[str] = set()
    taken: set[str] = set()
    waiting: list[tuple[ast.AST, bool]] = [(child, True) for child in ast.iter_child_nodes(function)]
    while waiting:
        node, is_own = waiting.pop()
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                (own if is_own else taken).add(name)
            case ast.arg(arg=name) | ast.alias(asname=str() as name) | ast.alias(name=name):
                taken.add(name.partition(".")[0])
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                taken.update(names)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                taken.add(name)
            case (
                ast.ExceptHandler(name=str() as name)
                | ast.MatchAs(name=str() as name)
                | ast.MatchStar(name=str() as name)
            ):
                taken.add(name)
            case ast.MatchMapping(rest=str() as name):
                taken.add(name)
        inside = is_own and not isinstance(node, _SCOPES)
        waiting.extend((child, inside) for child in ast.iter_child_nodes(node))
    return own, taken


def _any_order(value: ast.expr) -> bool:
    """Return True for a value that may be evaluated earlier or later without a difference."""
    return all(isinstance(node, _ANY_ORDER) for node in ast.walk(value))


def _work_out_numbers(node: ast.AST) -> None:
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            value[:] = [_worked_out(item) for item in value]
        else:
            setattr(node, name, _worked_out(value))


def _worked_out(node: object) -> object:
    match node:
        case ast.BinOp(ast.Constant(value=int() as left), operator, ast.Constant(value=int() as right)):
            known = worked_out(left, operator, right)
            return ast.Constant(known) if isinstance(known, int) and known >= 0 else node
    return node


def _is_lone_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


_FIXED_CALLS = ("evaluate_bpb", "make_dataloader", "progress")
_NUMBER = re.compile(r"Constant\(value=[0-9.][^)]*\)")  # a number in the output of ast.dump
_SEED_CALLS = {"manual_seed", "manual_seed_all", "seed", "seed_all"}
_SEED_NAME = re.compile(r"(?:.*_)?seed(?:_.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFacts:
    """The properties of a source.

    `fingerprint` is the hash of the normalised syntax tree. `seedless` is the same hash without the choice of a seed,
    `numberless` without all numbers: sources with the same `numberless` use the same names. `statements` are
    normalised, in their order, each without its inner ones. `entry_points` are the parts that a trial needs.
    """

    fingerprint: str
    seedless: str
    numberless: str
    statements: tuple[str, ...]
    entry_points: tuple[str, ...]

    @property
    def lines(self) -> int:
        """The logical lines of code: each statement counts once in any layout; comments and docstrings do not count."""
        return len(self.statements)


@lru_cache(maxsize=8)  # the incumbent is compared with every proposal
def read_facts(source: str) -> SourceFacts:
    """Return the properties of a source. Raises EditError if it does not parse or cannot be compared."""
    read = [_read(text) for text in pieces(source)]
    return SourceFacts(
        fingerprint=_hash(piece.whole for piece in read),
        seedless=_hash(piece.seedless for piece in read),
        numberless=_hash(piece.numberless for piece in read),
        statements=tuple(statement for piece in read for statement in piece.statements),
        entry_points=_entry_points(read),
    )


@lru_cache(maxsize=8)
def pieces(source: str) -> tuple[str, ...]:
    """Split a source into its module-level statements, each a text that parses alone.

    Statements on one line stay together.
    """
    return tuple(_split(source))


def _split(source: str) -> Iterator[str]:
    tree = parse(source)
    where = Bytes(source)
    start = end = 0
    for statement in tree.body:
        first = where.line_start(min(node.lineno for node in (statement, *getattr(statement, "decorator_list", ()))))
        if first >= end and not where.raw[first : first + 1].isspace():
            if end:
                yield where.raw[start:end].decode()
            start = first
        end = where.span(statement)[1]
    if end:
        yield where.raw[start:end].decode()


@dataclass(frozen=True)
class _Piece:
    """The properties of one piece.

    `fixed` are functions of `prepare` that it calls by their full name, `imported` its own names for imported ones, and
    `called` all names that it calls.
    """

    whole: str
    seedless: str
    numberless: str
    statements: tuple[str, ...]
    imported: dict[str, str]
    called: frozenset[str]
    fixed: frozenset[str]
    makes_model: bool


@lru_cache(maxsize=1024)
def _read(text: str) -> _Piece:
    tree = normalised(text)
    imported: dict[str, str] = {}
    called: set[str] = set()
    fixed: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="prepare", names=names):
                imported |= {alias.asname or alias.name: alias.name for alias in names}
            case ast.Call(func=ast.Name(id=name)):
                called.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="prepare"), attr=name)):
                fixed.add(name)
    makes_model = "model" in stored_outside_functions(tree)
    try:
        statements = tuple(text for statement in tree.body for text in _statements(statement))
        number_locals(tree)  # after the statements: one more local name must not change all later statements
        whole = _dump(tree)
        _blank_seeds(tree)
        seedless = _dump(tree)
    except RecursionError as error:
        raise EditError("train.py nests expressions too deeply to be compared") from error
    except ValueError as error:
        raise EditError(f"train.py holds a constant that cannot be compared: {error}") from error
    numberless = _NUMBER.sub("Constant()", whole)
    return _Piece(whole, seedless, numberless, statements, imported, frozenset(called), frozenset(fixed), makes_model)


def _dump(tree: ast.Module) -> str:
    return "".join(f"{ast.dump(statement)}\n" for statement in tree.body)


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def _entry_points(pieces: list[_Piece]) -> tuple[str, ...]:
    """Describe the parts that a trial needs of train.py: the calls into `prepare` and the module-level `model`.

    A script that calls nothing of `prepare` is that of a user's own task, whose trials need no part.
    """
    called = {name for piece in pieces for name in piece.called}
    fixed = {name for piece in pieces for name in piece.fixed}
    fixed |= {name for piece in pieces for alias, name in piece.imported.items() if alias in called}
    found = [f"the call of {name}() imported from prepare" for name in _FIXED_CALLS if name in fixed]
    if found and any(piece.makes_model for piece in pieces):
        found.append("the assignment of `model` at module level")
    return tuple(found)


def _statements(node: ast.AST) -> Iterator[str]:
    """Yield `node` and all statements, `except` handlers and cases inside it as text, each without its inner ones."""
    inner = {name: value for name, value in ast.iter_fields(node) if _is_block(value)}
    yield ast.dump(type(node)(**(dict(ast.iter_fields(node)) | {name: [] for name in inner})))
    for block in inner.values():
        for statement in block:
            yield from _statements(statement)


def _is_block(value: object) -> bool:
    blocks = (ast.stmt, ast.excepthandler, ast.match_case)
    return isinstance(value, list) and bool(value) and isinstance(value[0], blocks)


def _blank_seeds(tree: ast.Module) -> None:
    """Remove everything by which a source chooses its seed."""
    for node in ast.walk(tree):
        for block in blocks(node):
            code = [statement for statement in block if not _only_seeds(statement)]
            block[:] = code if code or isinstance(node, ast.Module) else [ast.Pass()]
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _SEED_CALLS:
                node.args, node.keywords = [], []
            case ast.keyword(arg=str() as name, value=ast.Constant()) if _SEED_NAME.fullmatch(name):
                node.value = ast.Constant(0)


def _only_seeds(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            return name in _SEED_CALLS
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if _SEED_NAME.fullmatch(name):
            return name.isupper() or isinstance(value, ast.Constant)
    return False
