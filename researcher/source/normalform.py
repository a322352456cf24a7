"""One form for sources that are the same program: without docstrings, with whole numbers worked out, keyword arguments
in one order, and local variables by number.

Nothing is taken away that could change what an honest program does; names that anything outside of a function can see
stay. What remains different may still be the same program.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from researcher.source.syntax import parse, worked_out

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
