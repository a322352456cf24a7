"""`overnight --version`: the version of the installed package, or of the source tree where none is installed."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def version() -> str:
    """Return the version that pyproject.toml declares. The containers hold that file and install no package."""
    try:
        return metadata.version("overnight")
    except metadata.PackageNotFoundError:
        return str(tomllib.loads(PYPROJECT.read_text())["project"]["version"])


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"overnight {version()}")
        raise typer.Exit


def overnight(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Start a run, show it, steer it, and take its results."""
