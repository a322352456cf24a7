"""The form in which Overnight is installed, its version, and the command that installs a missing package there.

A message must name only a command that the user has: a wheel contains no scripts and no compose files.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from enum import StrEnum
from importlib import metadata, util
from pathlib import Path

from researcher.errors import OvernightError

NAME = "overnight"
ROOT = Path(__file__).resolve().parents[2]
_PYPROJECT = "pyproject.toml"


class PackageMissing(OvernightError):
    """A package that the command needs is not installed."""


class Form(StrEnum):
    """A clone of the repository with its scripts, an image with pyproject.toml but no scripts, or a wheel with only the
    packages."""

    CLONE = "clone"
    IMAGE = "image"
    WHEEL = "wheel"


def form(root: Path = ROOT) -> Form:
    """Return the form of the installation whose packages are in `root`."""
    if (root / "scripts" / "setup").is_file():
        return Form.CLONE
    return Form.IMAGE if (root / _PYPROJECT).is_file() else Form.WHEEL


def version() -> str:
    """Return the version that pyproject.toml declares. The containers hold that file and install no package."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return str(tomllib.loads((ROOT / _PYPROJECT).read_text(encoding="utf-8"))["project"]["version"])


def installing(package: str, root: Path = ROOT) -> str:
    """Return the command that installs a package that Overnight requires and that is missing here."""
    match form(root):
        case Form.CLONE:
            return "scripts/setup run"
        case Form.IMAGE:
            return "build the images again: scripts/up, on the host"
        case Form.WHEEL:
            wanted = next(item for item in metadata.requires(NAME) or () if re.match(rf"{package}\b", item))
            return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(wanted.partition(';')[0].strip())}"


def require(package: str) -> None:
    """Raise PackageMissing if a package is not installed. The package is not imported."""
    if util.find_spec(package) is None:
        raise PackageMissing(f"{package} is not installed in {sys.prefix}", f"install it: {installing(package)}")
