"""From a proposal to a candidate, or to a reason in words: everything that can be known without running the source.

A proposal that passes here parses and compiles, changes what the program does, is new, and still speaks to
`prepare`. Whether it builds, fits the memory or is any good is for a trial to find out.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from researcher.edits import apply_edits
from researcher.errors import EditError, Rejected
from researcher.proposal import Candidate, Proposal
from researcher.source import parse, syntax_fault
from trainer.jobs import TRAIN_LIMIT_BYTES

_FIXED_CALLS = ("evaluate_bpb", "make_dataloader", "progress")
_SEED_CALLS = {"manual_seed", "manual_seed_all", "seed", "seed_all"}
_SEED_NAME = re.compile(r"(?:.*_)?seed(?:_.*)?", re.IGNORECASE)


def validate(proposal: Proposal, incumbent_source: str, tried: Callable[[Candidate], str | None]) -> Candidate:
    """The candidate that `proposal` makes of the incumbent.

    `tried` says what came of the same before ("the same code was tried before (experiment 12: discard, 1.812)"), or
    None. Raises Rejected with a reason that the next prompt can show, and nothing else.
    """
    try:
        source = apply_edits(incumbent_source, proposal.edits)
        _refuse_oversize(source)
        facts, incumbent = _facts(source), _facts(incumbent_source)
    except EditError as error:
        raise Rejected(str(error)) from error
    _compile(source)
    _refuse_no_change(source == incumbent_source, facts, incumbent)
    lost = [entry_point for entry_point in incumbent.entry_points if entry_point not in facts.entry_points]
    if lost:
        raise Rejected(f"train.py must keep {', '.join(lost)}")
    change = _change(incumbent.statements, facts.statements)
    candidate = Candidate(source, facts.fingerprint, change, facts.lines - incumbent.lines)
    if earlier := tried(candidate):
        raise Rejected(f"{earlier}; propose something else")
    return candidate


def fingerprint(source: str) -> str:
    """Hash of the normalised syntax tree: comments, layout, docstrings and the form of powers do not count."""
    return _facts(source).fingerprint


def code_lines(source: str) -> int:
    """Logical lines of code: a statement counts one however it is laid out, comments and docstrings none."""
    return _facts(source).lines


@dataclass(frozen=True)
class _Facts:
    """What is known of a source by reading it; `seedless` is its fingerprint whatever seed it chooses.

    `statements` are normalised, in their order, each without those inside it.
    """

    fingerprint: str
    seedless: str
    statements: tuple[str, ...]
    lines: int
    entry_points: tuple[str, ...]


@lru_cache(maxsize=8)  # a reading costs 60 ms, and the incumbent is compared with every proposal
def _facts(source: str) -> _Facts:
    tree = _normalised(source)
    whole, statements, entry_points = _hash(tree), tuple(_statements(tree)), _entry_points(tree)
    _blank_seeds(tree)
    return _Facts(whole, _hash(tree), statements, len(statements) - 1, entry_points)


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


def _change(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    """Hash of the statements that went and those that came, wherever they stand."""
    changed = [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if not line.startswith("@@")]
    return hashlib.sha256("\n".join(changed).encode()).hexdigest()


def _refuse_oversize(source: str) -> None:
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise Rejected(f"train.py is not text: {error.reason} at character {error.start}") from error
    if size > TRAIN_LIMIT_BYTES:
        raise Rejected(f"train.py would have {size} bytes; the limit is {TRAIN_LIMIT_BYTES}")


def _compile(source: str) -> None:
    """Refuse what only the compiler minds: `return` outside a function, a name both local and global."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "train.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise Rejected(f"train.py does not compile: {syntax_fault(error, source)}") from error
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise Rejected(f"train.py does not compile: {error or type(error).__name__}") from error


def _refuse_no_change(same_text: bool, facts: _Facts, incumbent: _Facts) -> None:
    if same_text:
        raise Rejected("the edits change nothing")
    if facts.fingerprint == incumbent.fingerprint:
        raise Rejected("the edits change only comments, docstrings or layout; change what the program does")
    if facts.seedless == incumbent.seedless:
        raise Rejected("the edits change only the random seed; the trainer sets the seed, so this is no experiment")


def _entry_points(tree: ast.Module) -> tuple[str, ...]:
    """What a trial needs of train.py, in words: the calls into `prepare` and the module-level `model`."""
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
    fixed |= {name for alias, name in imported.items() if alias in called}
    found = [f"the call of {name}() imported from prepare" for name in _FIXED_CALLS if name in fixed]
    if any(isinstance(node, ast.Name) and node.id == "model" for node in _stored_at_module_level(tree)):
        found.append("the assignment of `model` at module level")
    return tuple(found)


def _stored_at_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node
        waiting.extend(ast.iter_child_nodes(node))


def _normalised(source: str) -> ast.Module:
    tree = parse(source)
    for node in ast.walk(tree):
        for block in _blocks(node):
            code = [statement for statement in block if not _is_lone_constant(statement)]
            block[:] = code if code or isinstance(node, ast.Module) else [ast.Pass()]
        if isinstance(node, ast.Constant):
            node.kind = None
        _fold_powers(node)
    return tree


def _fold_powers(node: ast.AST) -> None:
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            value[:] = [_folded(item) for item in value]
        else:
            setattr(node, name, _folded(value))


def _folded(node: object) -> object:
    match node:
        case ast.BinOp(ast.Constant(value=int() as base), ast.Pow(), ast.Constant(value=int() as power)):
            return ast.Constant(base**power) if base == 2 and 0 <= power < 64 else node
    return node


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block


def _is_lone_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _blank_seeds(tree: ast.Module) -> None:
    """Take away everything by which a source chooses its seed."""
    for node in ast.walk(tree):
        for block in _blocks(node):
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


def _hash(tree: ast.Module) -> str:
    try:
        return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    except RecursionError as error:
        raise EditError("train.py nests expressions too deeply to be compared") from error
    except ValueError as error:
        raise EditError(f"train.py holds a constant that cannot be compared: {error}") from error
