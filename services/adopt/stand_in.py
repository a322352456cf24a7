"""The stand-in for a user's prepare.py in a trial: the trainer's own prepare.py, with the user's constants, helper
functions and parameters.

A helper is taken over as it is if it uses nothing but constants, Python, torch and numpy. So no stand-in reads the
user's data.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from researcher.source.knobs import set_knobs
from trainer.data.manifest import STAND_IN

FUNCTIONS = ("Tokenizer", "make_dataloader", "evaluate_bpb", "get_token_bytes")
LOADER = ("tokenizer", "B", "T", "split")
# Parameters of other loaders that change neither the rows nor their shapes. The device is obeyed, the rest ignored.
DEVICE = "device"
IGNORED = (
    "backend",
    "buffer_size",
    "num_workers",
    "pin_memory",
    "prefetch",
    "tokenizer_batch_size",
    "tokenizer_threads",
)
TAKEN = ("CUDA", "DATA", "EVAL_ROWS", "UNCOUNTED_STEPS")  # names of the trainer's own prepare.py
_PRIVATE = ("_Clock", "_batches", "_clock", "_existing", "_keep_freed_memory", "_packed", "_packed_rows")
_FREE = {*dir(builtins), "__name__"}
_MODULES = {*sys.stdlib_module_names, "torch", "numpy"}
_READS = ("environ", "getenv", "open", "exec", "eval", "__file__")
_NO_TEXT = """

def _not_in_a_trial(self):
    raise RuntimeError("Tokenizer.encode and decode are not there in a trial: it has tokens, and no tokenizer")


Tokenizer._loaded = _not_in_a_trial
"""
_OWN_LOADER = """

_packed = make_dataloader


def make_dataloader({parameters}):
    batches = _packed({first})
    {moved}
"""


@dataclass(frozen=True)
class Helpers:
    """Functions and values of a prepare.py that a stand-in takes over: their names and their source."""

    names: frozenset[str] = frozenset()
    source: str = ""


def stand_in(
    constants: Mapping[str, int], others: Mapping[str, int | float | str], helpers: str, parameters: Sequence[str]
) -> str:
    """Return the source of the stand-in.

    `constants` replace those of the trainer's prepare.py, `others` and the source of the helpers are added.
    `parameters` are those of the user's make_dataloader.
    """
    ours = resources.files("trainer").joinpath("subject", STAND_IN).read_text(encoding="utf-8")
    lines = [f"{name} = {value!r}" for name, value in others.items()]
    appended = "\n".join(["", "# the constants of the prepare.py that this stands in for", *lines])
    loader = "" if tuple(parameters) == LOADER else _loader(parameters)
    return set_knobs(ours, dict(constants)) + appended + helpers + _NO_TEXT + loader


def loader_parameters(prepare: ast.Module) -> tuple[str, ...]:
    """Return the names of the parameters of make_dataloader, without starred ones."""
    return next((_parameters(node) for node in prepare.body if _defines(node, "make_dataloader")), LOADER)


def take_over(prepare: ast.Module, wanted: Sequence[str], constants: Mapping[str, object]) -> Helpers:
    """Return those of the wanted names, with all that they use, that can be taken over."""
    taken: dict[str, ast.stmt] = {}
    for name in wanted:
        found = _closed(name, prepare, constants, {})
        taken |= found or {}
    in_order = [node for node in prepare.body if any(node is each for each in taken.values())]
    lines = "".join(f"\n\n{ast.unparse(node)}\n" for node in in_order)
    return Helpers(frozenset(name for name in wanted if name in taken), lines)


def _loader(parameters: Sequence[str]) -> str:
    first, rest = parameters[: len(LOADER)], parameters[len(LOADER) :]
    moved = (
        f"return batches if {DEVICE} is None else ((x.to({DEVICE}), y.to({DEVICE}), epoch) for x, y, epoch in batches)"
        if DEVICE in rest
        else "return batches"
    )
    declared = ", ".join([*first[:-1], f'{first[-1]}="train"', *(f"{name}=None" for name in rest)])
    return _OWN_LOADER.format(parameters=declared, first=", ".join(first), moved=moved)


def _parameters(node: ast.stmt) -> tuple[str, ...]:
    assert isinstance(node, ast.FunctionDef)
    return tuple(each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))


def _defines(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.FunctionDef(name=defined):
            return defined == name
        case ast.Assign(targets=[ast.Name(id=assigned)]):
            return assigned == name
    return False


def _closed(
    name: str, prepare: ast.Module, constants: Mapping[str, object], seen: dict[str, ast.stmt]
) -> dict[str, ast.stmt] | None:
    """Return the statements, by name, that define a name and all that it uses; None if something else is used."""
    defining = [node for node in prepare.body if _defines(node, name)]
    if (
        name in (*FUNCTIONS, *TAKEN, *_PRIVATE)
        or len(defining) != 1
        or any(word in ast.unparse(defining[0]) for word in _READS)
    ):
        return None
    found = {**seen, name: defining[0]}
    modules = _modules(prepare)
    for used in _used(defining[0]):
        if used in found or used in constants or used in _FREE:
            continue
        more = {used: modules[used]} if used in modules else _closed(used, prepare, constants, found)
        if more is None:
            return None
        found |= more
    return found


def _modules(prepare: ast.Module) -> dict[str, ast.stmt]:
    """Return the imports at module level of what every trial has, by the names that they bind."""
    found: dict[str, ast.stmt] = {}
    for node in prepare.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and all(part in _MODULES for part in _imported(node)):
            found |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
    return found


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom):
        yield (node.module or ".").split(".")[0]
    else:
        yield from (alias.name.split(".")[0] for alias in node.names)


def _used(statement: ast.stmt) -> set[str]:
    """Return the names that a statement uses and does not bind itself."""
    loaded, bound = set(), set()
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                loaded.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name):
                bound.add(name)
            case ast.alias(name=name, asname=asname):
                bound.add((asname or name).split(".")[0])
            case ast.ExceptHandler(name=str() as name):
                bound.add(name)
    return loaded - bound
