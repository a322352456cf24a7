"""Tests whether a trial can run this repository unedited, by reading it; nothing is run, nothing written.

A script that `inspect` accepts takes from prepare.py only names that a stand-in has. ShapeRefused is one sentence with
the next step. Not covered: whether the script trains well, or at all.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from researcher.errors import EditError
from researcher.source.knobs import range_faults, read_knobs
from researcher.source.syntax import parse, stored_outside_functions
from services.adopt.static_values import Surroundings, Value, read_constants

FUNCTIONS = ("Tokenizer", "make_dataloader", "evaluate_bpb", "get_token_bytes")
NEEDED = ("MAX_SEQ_LEN", "TIME_BUDGET")
TAKEN = ("CUDA", "DATA", "DEVICE", "EVAL_ROWS", "UNCOUNTED_STEPS")  # names of the stand-in's own
IMPOSED = "SEED"
_LOADER = ("tokenizer", "B", "T", "split")
_SEEDS = {"seed", "manual_seed", "manual_seed_all"}
_FETCHES = "kernels"  # the only use of this package is to download code


class ShapeRefused(Exception):
    """The repository cannot be used as it is; the message says why and what to do."""


@dataclass(frozen=True)
class Shape:
    """`constants` are prepare.py's plain numbers and texts, `folders` the folders that its paths name, `found` the
    lines for the user."""

    constants: dict[str, int | float | str]
    folders: tuple[Path, ...]
    found: tuple[str, ...]


def inspect(files: dict[str, str], around: Surroundings) -> Shape:
    """Read train.py and prepare.py of a commit. Raises ShapeRefused."""
    try:
        train, prepare = (parse(files[name], name) for name in ("train.py", "prepare.py"))
    except EditError as error:
        raise ShapeRefused(f"{error}; fix it and commit") from error
    values = read_constants(prepare, around)
    constants = {name: value for name, value in values.items() if name.isupper() and not isinstance(value, Path)}
    _require_packages(train, prepare, files)
    _require_prepare(prepare, constants)
    used = _require_train(train, constants)
    return Shape(
        constants={name: value for name, value in constants.items() if name not in (*TAKEN, IMPOSED)},
        folders=tuple(_folders(values, around)),
        found=tuple(_findings(train, files["train.py"], used, constants)),
    )


def _require_packages(train: ast.Module, prepare: ast.Module, files: dict[str, str]) -> None:
    if _FETCHES in _imports(train):
        raise ShapeRefused(
            f"train.py imports {_FETCHES}, which fetches code when the script starts, and a trial has no network; "
            "use torch's scaled_dot_product_attention there"
        )
    own = {name.split("/")[0].removesuffix(".py") for name in files}
    for file, tree in (("train.py", train), ("prepare.py", prepare)):
        for name in _imports(tree):
            if name not in own and find_spec(name) is None:
                pip = Path(sys.executable).with_name("pip")
                raise ShapeRefused(
                    f"{file} imports {name}, which is not here; install the package: {pip} install {name}"
                )


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the top-level names of packages that must be installed; an import inside a `try` is optional."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.split(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            yield statement.module.split(".")[0]


def _require_prepare(prepare: ast.Module, constants: dict[str, int | float | str]) -> None:
    defined = {statement.name for statement in prepare.body if isinstance(statement, ast.FunctionDef | ast.ClassDef)}
    if missing := [name for name in FUNCTIONS if name not in defined]:
        raise ShapeRefused(f"prepare.py defines no {missing[0]}, which a trial is measured by; define it there")
    for name in NEEDED:
        value = constants.get(name)
        if not isinstance(value, int | float) or value <= 0 or (name == "MAX_SEQ_LEN" and not isinstance(value, int)):
            raise ShapeRefused(f"prepare.py gives {name} no plain number above 0 at its module level; write one there")


def _require_train(train: ast.Module, constants: dict[str, int | float | str]) -> set[str]:
    """Return the names of prepare.py that train.py uses. Raises ShapeRefused for one without a stand-in."""
    names, modules = _from_prepare(train)
    used = set(names.values()) | {
        node.attr
        for node in ast.walk(train)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    for name in sorted(used):
        if name not in (*FUNCTIONS, IMPOSED) and (name not in constants or name in TAKEN):
            raise ShapeRefused(
                f"train.py takes {name} from prepare.py, which a trial has no stand-in for; it can have "
                f"{', '.join(FUNCTIONS)} and plain constants: move {name} into train.py"
            )
    for name in ("evaluate_bpb", "make_dataloader"):
        calls = [node for node in ast.walk(train) if isinstance(node, ast.Call) and _calls(node, name, names)]
        if not calls:
            raise ShapeRefused(f"train.py does not call {name} of prepare.py, by which a trial is measured; call it")
        for call in calls if name == "make_dataloader" else ():
            if len(call.args) > len(_LOADER) or any(word.arg not in _LOADER for word in call.keywords):
                raise ShapeRefused(
                    f"train.py line {call.lineno} gives make_dataloader more than (tokenizer, B, T, split), all that "
                    "its stand-in takes; leave the rest out"
                )
    if "TIME_BUDGET" not in used:
        raise ShapeRefused("train.py does not import TIME_BUDGET from prepare.py; stop training by it")
    if "model" not in stored_outside_functions(train):
        raise ShapeRefused("train.py has no `model` at its module level, where a trial looks for it; name it so")
    return used


def _from_prepare(train: ast.Module) -> tuple[dict[str, str], set[str]]:
    """Return the names imported from prepare.py, by their local names, and the local names of the module itself."""
    names: dict[str, str] = {}
    modules: set[str] = set()
    for node in ast.walk(train):
        match node:
            case ast.ImportFrom(module="prepare", names=taken):
                names |= {alias.asname or alias.name: alias.name for alias in taken}
            case ast.Import(names=taken):
                modules |= {alias.asname or alias.name for alias in taken if alias.name == "prepare"}
    if "*" in names:
        raise ShapeRefused("train.py imports * from prepare.py; name what it takes")
    return names, modules


def _calls(node: ast.Call, name: str, names: dict[str, str]) -> bool:
    match node.func:
        case ast.Name(id=called):
            return names.get(called) == name
        case ast.Attribute(attr=called):
            return called == name
    return False


def _folders(values: dict[str, Value], around: Surroundings) -> Iterator[Path]:
    """Yield the existing absolute paths that the texts name, each once, except those that contain the home folder, or
    that lie in the repository or in another one of them."""
    home, repository = around.home.resolve(), around.file.parent.resolve()
    texts = (str(value) for value in values.values() if isinstance(value, str | Path) and "\0" not in str(value))
    named = {Path(text).resolve() for text in texts if text.startswith("/") and len(text) < 1024}
    open_to_it = [path for path in sorted(named) if path.exists() and not home.is_relative_to(path)]
    kept: list[Path] = []
    for path in open_to_it:
        if not any(path.is_relative_to(other) for other in (repository, *kept)):
            kept.append(path)
            yield path


def _findings(train: ast.Module, source: str, used: set[str], constants: dict[str, int | float | str]) -> Iterator[str]:
    calls = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(train) if isinstance(node, ast.Call)}
    texts = [node.value for node in ast.walk(train) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    yield f"takes from prepare.py: {', '.join(sorted(used))}"
    yield "sets a seed of its own: every trial's seed is imposed in its place" if calls & _SEEDS else "sets no seed"
    yield (f"times itself: {constants['TIME_BUDGET']:g} s after its first 11 steps, as our own clock does by the wall")
    yield "`model` at module level, " + ("compiled" if "compile" in calls else "not compiled")
    if not any("val_bpb:" in text for text in texts):
        yield "prints no line `val_bpb:`; the trainer's own score counts in any case"
    knobs = read_knobs(source)
    ranged = [f"{name} {knob.range}" for name, knob in knobs.items() if knob.range is not None]
    yield f"knobs: {', '.join(knobs) or 'none'}"
    yield (
        f"the optimiser moves: {', '.join(ranged)}"
        if ranged
        else (
            "the optimiser moves none of them: write ranges, such as `LR = 0.1  # range 0.01..1 log`; until "
            "then only an LLM proposes"
        )
    )
    yield from (f"the optimiser does not move {name}: {fault}" for name, fault in range_faults(source).items())
    yield "trust: a score that may be kept is asked again, in its own and in a fresh process, for a look ahead"
