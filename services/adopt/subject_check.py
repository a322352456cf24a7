"""Tests whether a trial can run this repository unedited, by reading it; nothing is run, nothing written.

A script that `inspect` accepts takes from prepare.py only names that a stand-in has. ShapeRefused names every reason
with its next step, those first that no step on this machine removes. Not covered: whether the script trains well, or
at all.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from researcher.errors import EditError
from researcher.source.knobs import range_faults, read_knobs
from researcher.source.syntax import parse
from services.adopt import packages
from services.adopt.conditions import placed
from services.adopt.hub_cache import HANDED_OVER, Cache, HubUse, Load, hub_use, loads
from services.adopt.packages import Placed
from services.adopt.stand_in import DEVICE, FUNCTIONS, IGNORED, LOADER, TAKEN, Helpers, loader_parameters, take_over
from services.adopt.static_values import Surroundings, Value, read_constants, variables_read
from services.adopt.uncounted_steps import uncounted_steps
from trainer.jobs.profile import OWN_UNCOUNTED_STEPS

NEEDED = ("MAX_SEQ_LEN", "TIME_BUDGET")
IMPOSED = "SEED"
_SEEDS = {"seed", "manual_seed", "manual_seed_all"}
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSW", "CREDENTIAL")


class ShapeRefused(Exception):
    """The repository cannot be used as it is; the message says why and what to do."""


@dataclass(frozen=True)
class Shape:
    """What adoption takes from a repository.

    `constants` are prepare.py's plain numbers and texts, `helpers` its functions that a stand-in takes over,
    `parameters` those of its make_dataloader. `folders` are those that its paths name, `variables` the variables of the
    environment that it reads. `hub` is what trials need from the cache of a hub. `uncounted_steps` are the first steps
    that its clock leaves out, None if the text does not tell. `found` are the lines for the user.
    """

    constants: dict[str, int | float | str]
    folders: tuple[Path, ...]
    found: tuple[str, ...]
    helpers: Helpers
    parameters: tuple[str, ...]
    variables: dict[str, str]
    hub: HubUse
    uncounted_steps: int | None


@dataclass(frozen=True)
class _Script:
    """The user's train.py: its name, its text and tree, every node with its conditions, and the names of prepare.py
    that it uses."""

    name: str
    source: str
    tree: ast.Module
    nodes: Placed
    names: Mapping[str, str]
    used: frozenset[str]

    @classmethod
    def read(cls, name: str, source: str, tree: ast.Module) -> _Script:
        names, modules = _from_prepare(tree)
        attributes = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
        }
        return cls(name, source, tree, placed(tree), names, frozenset({*names.values(), *attributes}))

    def calls(self, name: str) -> list[ast.Call]:
        """Return the calls of a function of prepare.py."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Call) and _calls(node, name, self.names)]


def inspect(files: dict[str, str], around: Surroundings, name: str = "train.py") -> Shape:
    """Read train.py, which the user calls `name`, and prepare.py of a commit. Raises ShapeRefused."""
    try:
        train, prepare = parse(files["train.py"], name), parse(files["prepare.py"], "prepare.py")
    except EditError as error:
        raise ShapeRefused(f"{error}; fix it and commit") from error
    values = read_constants(prepare, around)
    constants = {name: value for name, value in values.items() if name.isupper() and not isinstance(value, Path)}
    script = _Script.read(name, files["train.py"], train)
    helpers = take_over(prepare, sorted(script.used - {*FUNCTIONS, *NEEDED, IMPOSED, *constants}), constants)
    own = [path.split("/")[0].removesuffix(".py") for path in files]
    loaded = loads(script.nodes, own, gpu=around.gpu, capability=around.capability)
    cache = Cache.of(around.environment, around.home)
    hub = hub_use(script.nodes, loaded, own, cache, gpu=around.gpu)
    impossible = list(_impossible(script, loaded, cache, around))
    reasons = [
        *impossible,
        *_missing(script, placed(prepare), own, around),
        *([] if impossible else _lacking(script, hub, cache, around)),
        *_faults_of_prepare(prepare, constants),
        *_faults_of_train(script, prepare, constants, helpers),
    ]
    if reasons:
        raise ShapeRefused(reasons[0] if len(reasons) == 1 else _numbered(reasons))
    variables = _handed_over(prepare, around)
    return Shape(
        constants={name: value for name, value in constants.items() if name not in (*TAKEN, IMPOSED)},
        folders=tuple(_folders([*values.values(), *variables.values()], around)),
        found=(*_findings(script, constants, prepare), *_optional(script, own, around), *hub.found),
        helpers=helpers,
        parameters=loader_parameters(prepare),
        variables=variables,
        hub=hub,
        uncounted_steps=uncounted_steps(train),
    )


def _numbered(reasons: Sequence[str]) -> str:
    return f"{len(reasons)} reasons: " + " ".join(f"({number}) {each}." for number, each in enumerate(reasons, 1))


def _impossible(script: _Script, loaded: Sequence[Load], cache: Cache, around: Surroundings) -> Iterator[str]:
    """Yield the reasons that no edit of the user's removes on this machine."""
    framework = packages.other_framework(list(packages.imports(script.nodes)), gpu=around.gpu)
    if framework is not None:
        yield f"{script.name} trains with {framework}, and a trial measures models of torch only; use a port to torch"
    if around.gpu:
        return
    kernels = {id(each.call): [cache.needs_gpu(name) for name in each.names] for each in loaded if each.is_kernel}
    needs = packages.needs_of_a_gpu(script.nodes, lambda node: bool(kernels.get(id(node))) and all(kernels[id(node)]))
    if needs:  # then a kernel that is not in the cache is for a GPU, too
        needs = packages.needs_of_a_gpu(
            script.nodes, lambda node: id(node) in kernels and False not in kernels[id(node)]
        )
        yield (
            f"{script.name} needs a GPU, and trials here have none, for {', '.join(needs)}; "
            "use a machine with a GPU, or do without where torch.cuda.is_available() is False"
        )


def _missing(script: _Script, prepare: Placed, own: Sequence[str], around: Surroundings) -> Iterator[str]:
    found = [(script.name, script.nodes), ("prepare.py", prepare)]
    absent: dict[str, str] = {}
    for file, nodes in found:
        needed, _ = packages.missing(list(packages.imports(nodes)), own, gpu=around.gpu)
        absent = dict.fromkeys(needed, file) | absent
    for name, file in absent.items():
        if name in packages.OTHER_FRAMEWORKS:
            continue
        yield f"{file} imports {name}, which is not here; {packages.install_step(name, container=around.container)}"


def _optional(script: _Script, own: Sequence[str], around: Surroundings) -> Iterator[str]:
    _, optional = packages.missing(list(packages.imports(script.nodes)), own, gpu=around.gpu)
    if optional:
        yield f"may import {', '.join(optional)}, not installed here: trials go on as the script does without"


def _lacking(script: _Script, hub: HubUse, cache: Cache, around: Surroundings) -> Iterator[str]:
    python, mounted = sys.executable, ""
    if around.container:
        python, mounted = "python3", " on the host, then name its cache in gpu.env: KERNELS_CACHE"
    for each in hub.lacking:
        yield (
            f"{script.name} line {each.call.lineno} loads {' or '.join(each.names)}, which the cache {cache.folder} "
            f"lacks, and a trial has no network; load it once: {each.command(python)}{mounted}"
        )


def _faults_of_prepare(prepare: ast.Module, constants: Mapping[str, Value]) -> Iterator[str]:
    defined = {statement.name for statement in prepare.body if isinstance(statement, ast.FunctionDef | ast.ClassDef)}
    if missing := [name for name in FUNCTIONS if name not in defined]:
        yield f"prepare.py defines no {', '.join(missing)}, by which a trial is measured; define it there"
    for name in NEEDED:
        value = constants.get(name)
        if not isinstance(value, int | float) or value <= 0 or (name == "MAX_SEQ_LEN" and not isinstance(value, int)):
            yield f"prepare.py gives {name} no plain number above 0 at its module level; write one there"
    if len(loader_parameters(prepare)) < len(LOADER):
        yield f"make_dataloader of prepare.py takes less than ({', '.join(LOADER)}); give it these four parameters"


def _faults_of_train(
    script: _Script, prepare: ast.Module, constants: Mapping[str, Value], helpers: Helpers
) -> Iterator[str]:
    """Yield why a trial could not measure the script: names without a stand-in, calls that are missing or others."""
    if "*" in script.names:
        yield f"{script.name} imports * from prepare.py; name what it takes"
        return
    known = {*FUNCTIONS, IMPOSED, *helpers.names, *(set(constants) - set(TAKEN))}
    for name in sorted(script.used - known):
        yield (
            f"{script.name} takes {name} from prepare.py, which a trial has no stand-in for; it can have "
            f"{', '.join(FUNCTIONS)}, plain constants, and functions that use only these, torch and numpy: "
            f"move {name} into {script.name}"
        )
    for name in ("evaluate_bpb", "make_dataloader"):
        if not script.calls(name):
            yield f"{script.name} does not call {name} of prepare.py, by which a trial is measured; call it"
    yield from _faults_of_loader_calls(script, loader_parameters(prepare))
    if "TIME_BUDGET" not in script.used:
        yield f"{script.name} does not import TIME_BUDGET from prepare.py; stop training by it"


def _faults_of_loader_calls(script: _Script, parameters: Sequence[str]) -> Iterator[str]:
    for call in script.calls("make_dataloader"):
        given = _arguments(call, parameters)
        others = [name for name in given if name not in (*parameters[: len(LOADER)], DEVICE, *IGNORED)]
        starred = any(isinstance(each, ast.Starred) for each in call.args)
        if others or starred or len(call.args) > len(parameters):
            what = ", ".join(others) or "more"
            yield (
                f"{script.name} line {call.lineno} gives make_dataloader {what}, and its stand-in takes only "
                f"({', '.join(parameters[: len(LOADER)])}), {DEVICE} and {', '.join(IGNORED)}; leave the rest out"
            )


def _arguments(call: ast.Call, parameters: Sequence[str]) -> list[str]:
    """Return the names of the parameters to which a call gives a value."""
    return [*parameters[: len(call.args)], *(word.arg or "**" for word in call.keywords)]


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
    return names, modules


def _calls(node: ast.Call, name: str, names: Mapping[str, str]) -> bool:
    match node.func:
        case ast.Name(id=called):
            return names.get(called) == name
        case ast.Attribute(attr=called):
            return called == name
    return False


def _handed_over(prepare: ast.Module, around: Surroundings) -> dict[str, str]:
    """Return the variables of the user's environment that prepare.py gets: those that it reads, and caches of a hub."""
    read = {*variables_read(prepare), *HANDED_OVER} & set(around.environment)
    return {name: around.environment[name] for name in sorted(read) if not any(word in name for word in _SECRET)}


def _folders(values: Sequence[Value], around: Surroundings) -> Iterator[Path]:
    """Yield the existing absolute paths that the texts name, each once, except those that contain the home folder, or
    that lie in the repository or in another one of them."""
    home, repository = around.home.resolve(), around.file.parent.resolve()
    texts = (str(value) for value in values if isinstance(value, str | Path) and "\0" not in str(value))
    named = {Path(text).resolve() for text in texts if text.startswith("/") and len(text) < 1024}
    open_to_it = [path for path in sorted(named) if path.exists() and not home.is_relative_to(path)]
    kept: list[Path] = []
    for path in open_to_it:
        if not any(path.is_relative_to(other) for other in (repository, *kept)):
            kept.append(path)
            yield path


def _uncounted(steps: int | None) -> str:
    """Return how many first steps the script's clock leaves out, as text."""
    if steps is None:
        return f"and could not tell how many first steps it leaves out, so a trial leaves out {OWN_UNCOUNTED_STEPS}"
    return f"after its first {steps} steps" if steps > 1 else "after its first step" if steps else "from its first step"


def _findings(script: _Script, constants: Mapping[str, Value], prepare: ast.Module) -> Iterator[str]:
    train, tree = script.source, script.tree
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    yield f"{script.name} takes from prepare.py: {', '.join(sorted(script.used))}"
    seeds = {name.split(".")[-1] for name in calls} & _SEEDS
    yield (
        f"{script.name} sets a seed of its own; each trial sets another seed in its place"
        if seeds
        else f"{script.name} sets no seed; each trial sets one"
    )
    yield f"a trial trains for {constants['TIME_BUDGET']:g} s by the wall clock, {_uncounted(uncounted_steps(tree))}"
    yield from _of_the_model(script, calls)
    if not any("val_bpb:" in text for text in texts):
        yield f"{script.name} prints no line `val_bpb:`; only the trainer's own score counts in any case"
    parameters = loader_parameters(prepare)
    if ignored := sorted(
        {name for call in script.calls("make_dataloader") for name in _arguments(call, parameters)} & {*IGNORED}
    ):
        yield f"make_dataloader's {', '.join(ignored)} change nothing in a trial, whose rows are packed already"
    if read := variables_read(tree):
        yield f"{script.name} reads {', '.join(sorted(read))} from the environment; trials use its defaults"
    knobs = read_knobs(train)
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
    yield from (f"the optimiser does not move {name}: {fault}" for name, fault in range_faults(train).items())
    yield "a score counts only if a second process with the same weights shows that the model does not look ahead"


def _of_the_model(script: _Script, calls: set[str]) -> Iterator[str]:
    """Yield the line about the model, which is the one that evaluate_bpb gets."""
    given = script.calls("evaluate_bpb")
    first = given[0].args[0] if given[0].args else next((word.value for word in given[0].keywords), None)
    compiled = (
        "compiled"
        if any(name in ("torch.compile", "compile") or name.endswith("model.compile") for name in calls)
        else "not compiled"
    )
    if isinstance(first, ast.Name | ast.Attribute):
        yield f"the model is `{ast.unparse(first)}` (line {given[0].lineno}), {compiled}"
    else:
        yield f"could not tell which name holds the model that line {given[0].lineno} scores; it needs a name"
    loops = [node for node in ast.walk(script.tree) if isinstance(node, ast.For | ast.While)]
    in_loop = any(part is call for loop in loops for part in ast.walk(loop) for call in given)
    if len(given) > 1 or in_loop:
        lines = ", ".join(str(call.lineno) for call in given)
        yield f"may call evaluate_bpb more than once (line {lines}): the first call ends the training of a trial"
