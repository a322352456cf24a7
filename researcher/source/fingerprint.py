"""What is known of a source by reading it: which program it is, whatever its layout, its comments and its seed.

Statements at module level are read one by one and remembered, for a candidate differs from what was read before in a
few of them. Nothing here runs the source.

Sources that are the same program have one normal form: without docstrings, with whole numbers worked out, keyword
arguments in one order, and local variables by number. Nothing is taken away that could change what an honest program
does; names that anything outside of a function can see stay. What remains different may still be the same program.
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
    """Raises EditError for a source that does not parse."""
    tree = parse(source)
    for node in reversed([*ast.walk(tree)]):  # what is inside first
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
    """The lists of statements that a node holds."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block


def number_locals(tree: ast.Module) -> None:
    """Name each function's own variables by the order of their appearance, where no other scope could mean another.

    Not parameters, which callers may name, nothing that a scope inside binds as well, and no seed, known by its name.
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
    """Variables that the function's own code assigns; names that are bound in another way or elsewhere inside it."""
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
    """True of what can be evaluated earlier or later without a difference."""
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
_NUMBER = re.compile(r"Constant\(value=[0-9.][^)]*\)")  # in a dump
_SEED_CALLS = {"manual_seed", "manual_seed_all", "seed", "seed_all"}
_SEED_NAME = re.compile(r"(?:.*_)?seed(?:_.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFacts:
    """`fingerprint` is the hash of the normalised syntax tree, `seedless` that of it whatever seed the source chooses,
    `numberless` that of it whatever numbers stand in it: a source that only differs in them uses no other names.

    `statements` are normalised, in their order, each without those inside it; `entry_points` is what a trial needs.
    """

    fingerprint: str
    seedless: str
    numberless: str
    statements: tuple[str, ...]
    entry_points: tuple[str, ...]

    @property
    def lines(self) -> int:
        """Logical lines of code: a statement counts one however it is laid out, comments and docstrings none."""
        return len(self.statements)


@lru_cache(maxsize=8)  # the incumbent is compared with every proposal
def read_facts(source: str) -> SourceFacts:
    """Raises EditError for a source that does not parse or cannot be compared."""
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
    """The statements at module level, each a text that parses alone; what shares a line stays together."""
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
    """What one piece adds to the facts. `fixed` are functions of `prepare` that it calls by their full name,
    `imported` the names it gives to others, `called` all names that it calls."""

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
        number_locals(tree)  # after the statements: a local name more must not make another of all below it
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
    """What a trial needs of train.py, in words: the calls into `prepare` and the module-level `model`."""
    called = {name for piece in pieces for name in piece.called}
    fixed = {name for piece in pieces for name in piece.fixed}
    fixed |= {name for piece in pieces for alias, name in piece.imported.items() if alias in called}
    found = [f"the call of {name}() imported from prepare" for name in _FIXED_CALLS if name in fixed]
    if any(piece.makes_model for piece in pieces):
        found.append("the assignment of `model` at module level")
    return tuple(found)


def _statements(node: ast.AST) -> Iterator[str]:
    """Every statement, except handler and case below `node`, itself first, as text."""
    inner = {name: value for name, value in ast.iter_fields(node) if _is_block(value)}
    yield ast.dump(type(node)(**(dict(ast.iter_fields(node)) | {name: [] for name in inner})))
    for block in inner.values():
        for statement in block:
            yield from _statements(statement)


def _is_block(value: object) -> bool:
    blocks = (ast.stmt, ast.excepthandler, ast.match_case)
    return isinstance(value, list) and bool(value) and isinstance(value[0], blocks)


def _blank_seeds(tree: ast.Module) -> None:
    """Take away everything by which a source chooses its seed."""
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
