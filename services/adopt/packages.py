"""The packages of a script: those that it imports, those that are missing here, and those that need a GPU."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from services.adopt.conditions import Place

Placed = Sequence[tuple[ast.AST, Place]]

# The packages on the index whose name is not that of the import.
_PACKAGE_OF = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "flash_attn": "flash-attn",
    "git": "gitpython",
    "google": "protobuf",
    "hydra": "hydra-core",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "pynvml": "nvidia-ml-py",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
OTHER_FRAMEWORKS = {"flax": "JAX", "jax": "JAX", "mlx": "MLX", "tensorflow": "TensorFlow", "tinygrad": "tinygrad"}
_WITH_A_GPU_ONLY = (
    "apex", "bitsandbytes", "causal_conv1d", "cupy", "flash_attn", "flash_attn_interface", "mamba_ssm",
    "transformer_engine", "xformers",
)  # fmt: skip
_FAILS_WITHOUT_A_GPU = (
    "current_device", "get_device_capability", "get_device_name", "get_device_properties", "mem_get_info", "set_device",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """An import of a top-level package, with its line and its conditions."""

    name: str
    line: int
    place: Place


def imports(nodes: Placed) -> Iterator[Import]:
    """Yield every import of a script, wherever it stands; relative ones are the repository's own."""
    for node, place in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name.split(".")[0], node.lineno, place) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield Import(node.module.split(".")[0], node.lineno, place)


def missing(found: Sequence[Import], own: Collection[str], *, gpu: bool) -> tuple[list[str], list[str]]:
    """Return the packages that are not here: those without which the script fails, and those that it may do without."""
    absent = [
        each for each in found if each.name not in own and each.place.may_run(gpu=gpu) and not _is_here(each.name)
    ]
    needed = list(dict.fromkeys(each.name for each in absent if each.place.must_run(gpu=gpu)))
    return needed, [name for name in dict.fromkeys(each.name for each in absent) if name not in needed]


def _is_here(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that was made without a spec
        return True


def install_command(name: str) -> str:
    """Return the command that installs the package of an import."""
    return f"{Path(sys.executable).with_name('pip')} install {_PACKAGE_OF.get(name, name)}"


def other_framework(found: Sequence[Import], *, gpu: bool) -> str | None:
    """Return the framework in which the script surely trains, if it is not torch."""
    if any(each.name == "torch" for each in found):
        return None
    used = (each.name for each in found if each.place.must_run(gpu=gpu))
    return next((OTHER_FRAMEWORKS[name] for name in used if name in OTHER_FRAMEWORKS), None)


def needs_of_a_gpu(nodes: Placed, loads_kernel: Callable[[ast.AST], bool]) -> list[str]:
    """Return what fails in a script on a machine without a GPU, each with its line.

    `loads_kernel` tells the calls that load a kernel that only a GPU can run.
    """
    found = [each for each in imports(nodes) if each.name in _WITH_A_GPU_ONLY and each.place.must_run(gpu=False)]
    needs = {f"the import of {each.name} (line {each.line})": None for each in found}
    asks_first = any(isinstance(node, ast.Attribute) and node.attr == "is_available" for node, _ in nodes)
    for node, place in nodes:
        if not place.must_run(gpu=False):
            continue
        if isinstance(node, ast.Call) and loads_kernel(node):
            needs[f"the kernel that {ast.unparse(node)} of the package kernels loads (line {node.lineno})"] = None
        elif isinstance(node, ast.Call) and _fails(node, asks_first=asks_first):
            needs[f"{ast.unparse(node)} (line {node.lineno})"] = None
        elif isinstance(node, ast.Raise) and place.on_gpu is False:
            needs[f"its own check (line {node.lineno})"] = None
    return list(needs)


def _fails(call: ast.Call, *, asks_first: bool) -> bool:
    name = ast.unparse(call.func)
    if name.startswith("torch.cuda."):
        return name.removeprefix("torch.cuda.") in _FAILS_WITHOUT_A_GPU
    given = call.args[0] if call.args else None
    return name == "torch.device" and not asks_first and isinstance(given, ast.Constant) and given.value == "cuda"
