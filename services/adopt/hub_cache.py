"""Code and weights that a script loads from a hub's cache, such as attention kernels.

A trial has no network. So the parts of the cache that the script names are opened for reading, with the hub set
offline. Everything is read from the script's text and from the cache; nothing is loaded. Whether a cached kernel fits
the GPU is not tested.
"""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.adopt.conditions import Place
from services.adopt.packages import Placed, imports

_KERNELS = "kernels"
_PACKAGES = (
    _KERNELS,
    "huggingface_hub",
    "transformers",
    "diffusers",
    "sentence_transformers",
    "timm",
    "peft",
    "datasets",
)
_LOADERS = ("get_kernel", "from_pretrained", "hf_hub_download", "snapshot_download")
_KINDS = (_KERNELS, "models")  # never data sets: a cached one may hold the validation text
_CAPABILITY = "get_device_capability"
_COMPARISONS: dict[type[ast.cmpop], Callable[..., bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
HANDED_OVER = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HUGGINGFACE_HUB_CACHE", "KERNELS_CACHE")


@dataclass(frozen=True)
class Load:
    """A call that loads from the hub. `names` are the repositories that it may name; none if the text does not say."""

    call: ast.Call
    names: tuple[str, ...]
    place: Place

    @property
    def is_kernel(self) -> bool:
        """Whether it loads a kernel, which is compiled code."""
        return ast.unparse(self.call.func).endswith("get_kernel")

    def command(self) -> str:
        """Return the command that fills the cache with the first of the repositories."""
        named = [word for word in self.call.keywords if isinstance(word.value, ast.Constant)]
        given = "".join(f", {ast.unparse(word)}" for word in named if word.arg in ("revision", "version"))
        module, verb = ("kernels", "get_kernel") if self.is_kernel else ("huggingface_hub", "snapshot_download")
        return f'{sys.executable} -c "from {module} import {verb}; {verb}({self.names[0]!r}{given})"'


@dataclass(frozen=True)
class Cache:
    """The folder of a hub's cache."""

    folder: Path

    @classmethod
    def of(cls, environment: Mapping[str, str], home: Path) -> Cache:
        """Return the cache that the packages of the hub use in this environment."""
        for name in ("KERNELS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            if environment.get(name):
                return cls(Path(environment[name]).expanduser().absolute())
        base = Path(environment.get("XDG_CACHE_HOME") or home / ".cache").expanduser()
        return cls((Path(environment.get("HF_HOME") or base / "huggingface").expanduser() / "hub").absolute())

    def folders(self, name: str) -> list[Path]:
        """Return the folders that hold a snapshot of a repository of the hub."""
        stem = name.replace("/", "--")
        found = (self.folder / f"{kind}--{stem}" for kind in _KINDS)
        return [path for path in found if any(each.is_file() for each in path.glob("snapshots/*/**/*"))]

    def every_folder(self, *kinds: str) -> list[Path]:
        """Return the folders of all kernels, or of all models."""
        return [path for kind in kinds for path in sorted(self.folder.glob(f"{kind}--*"))]

    def needs_gpu(self, name: str) -> bool | None:
        """Return whether no cached build of a kernel runs without a GPU; None if none is cached."""
        builds = {build.name for path in self.folders(name) for build in path.glob("snapshots/*/build/*")}
        return all(_is_for_gpu(build) for build in builds) if builds else None

    def environment(self) -> dict[str, str]:
        """Return the variables of a process that reads this cache without a network."""
        return {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_CACHE": str(self.folder),
            "KERNELS_CACHE": str(self.folder),
        }


@dataclass(frozen=True)
class HubUse:
    """What a script needs from the hub: the open folders, the variables, the lines for the user, and what is missing.

    `lacking` are loads without which the script fails, and whose repository is not in the cache.
    """

    readable: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    lacking: tuple[Load, ...] = ()


def loads(nodes: Placed, own: Sequence[str], *, gpu: bool, capability: tuple[int, int] | None) -> list[Load]:
    """Return the calls of a script that load from the hub. `capability` is that of the GPU, if it is known."""
    if not any(each.name in _PACKAGES and each.name not in own for each in imports(nodes)):
        return []
    texts = _Texts(nodes, gpu=gpu, capability=capability)
    calls = [(node, place) for node, place in nodes if isinstance(node, ast.Call) and _is_loader(node)]
    return [Load(call, tuple(texts.of(_repository(call))), place) for call, place in calls]


def hub_use(nodes: Placed, found: Sequence[Load], own: Sequence[str], cache: Cache, *, gpu: bool) -> HubUse:
    """Return what the script needs from the hub on a machine with or without a GPU."""
    if not any(each.name in _PACKAGES and each.name not in own for each in imports(nodes)):
        return HubUse()
    here = [each for each in found if each.place.may_run(gpu=gpu)]
    lacking = [each for each in here if each.names and not any(map(cache.folders, each.names))]
    readable = [folder for each in here for name in each.names for folder in cache.folders(name)]
    if any(each.is_kernel for each in here):
        readable += cache.every_folder(_KERNELS)  # a kernel may load others
    if any(not each.names for each in here):
        readable = cache.every_folder(*_KINDS)
    return HubUse(
        readable=tuple(dict.fromkeys(readable)),
        environment=cache.environment(),
        found=tuple(_lines(here, lacking, cache, gpu=gpu)),
        lacking=tuple(each for each in lacking if each.place.must_run(gpu=gpu)),
    )


def _lines(here: Sequence[Load], lacking: Sequence[Load], cache: Cache, *, gpu: bool) -> Iterator[str]:
    for each in here:
        what, line = " or ".join(each.names), each.call.lineno
        if not each.names:
            yield f"could not tell what line {line} loads from the hub: trials may read all of {cache.folder}, offline"
        elif each not in lacking:
            yield f"loads {what} from the cache {cache.folder}: trials may read it there, with the hub offline"
        elif not each.place.must_run(gpu=gpu):
            yield (
                f"line {line} may load {what}, which the cache {cache.folder} lacks; trials then go on as the script "
                f"does without it. To have it: {each.command()}"
            )


class _Texts:
    """Finds the texts that an expression may have, through the names that the script assigns."""

    def __init__(self, nodes: Placed, *, gpu: bool, capability: tuple[int, int] | None) -> None:
        self._gpu, self._capability = gpu, capability
        self._assigned: dict[str, list[ast.expr]] = {}
        for node, _ in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._assigned.setdefault(node.targets[0].id, []).append(node.value)

    def of(self, node: ast.expr | None, depth: int = 4) -> list[str]:
        """Return the texts, or none if one of them is unknown."""
        parts: list[ast.expr]
        match node:
            case ast.Constant(value=str() as text):
                return [text]
            case ast.Name(id=name) if depth and name in self._assigned:
                parts = self._assigned[name]
            case ast.IfExp(test=test, body=body, orelse=orelse):
                holds = self._holds(test)
                parts = [body, orelse] if holds is None else [body if holds else orelse]
            case _:
                return []
        texts = [self.of(part, depth - 1) for part in parts]
        return list(dict.fromkeys(text for each in texts for text in each)) if all(texts) else []

    def _holds(self, test: ast.expr) -> bool | None:
        """Return whether there is a GPU, or one of a compared capability; None for another condition."""
        match test:
            case ast.Call(func=func) if ast.unparse(func) == "torch.cuda.is_available":
                return self._gpu
            case ast.Compare(left=left, ops=[kind], comparators=[right]) if type(kind) in _COMPARISONS:
                values = self._number(left), self._number(right)
                if None in values or isinstance(values[0], tuple) != isinstance(values[1], tuple):
                    return None
                return bool(_COMPARISONS[type(kind)](*values))
        return None

    def _number(self, node: ast.expr) -> tuple[int, ...] | int | None:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Tuple(elts=[ast.Constant(value=int() as major), ast.Constant(value=int() as minor)]):
                return major, minor
            case ast.Subscript(value=value, slice=ast.Constant(value=int() as index)) if index in (0, 1):
                whole = self._number(value)
                return whole[index] if isinstance(whole, tuple) else None
            case ast.Name(id=name) if any(_CAPABILITY in ast.unparse(each) for each in self._assigned.get(name, ())):
                return self._capability
            case ast.Call(func=func) if _CAPABILITY in ast.unparse(func):
                return self._capability
        return None


def _is_loader(call: ast.Call) -> bool:
    return ast.unparse(call.func).rpartition(".")[2] in _LOADERS


def _repository(call: ast.Call) -> ast.expr | None:
    named = (word.value for word in call.keywords if word.arg == "repo_id")
    return call.args[0] if call.args else next(named, None)


def _is_for_gpu(build: str) -> bool:
    parts = build.split("-")
    return any(part.startswith(("cu", "rocm", "xpu", "metal", "cann")) for part in parts[1:])
