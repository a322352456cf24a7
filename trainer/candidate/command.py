"""Becomes the command of a user's own task, in the sandbox.

The files of the trial are there already. This module links the readable paths below the current folder, where the
user's repository has them, makes the output folder, and replaces itself by the command.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

PYTHON = "python"


@dataclass(frozen=True)
class CommandOrders:
    """The words of the command, the links to make (path below the current folder, target), and the output folder."""

    words: list[str]
    links: list[tuple[str, str]]
    output: str | None


def main() -> None:
    """Run the command. argv[2] holds the orders as JSON."""
    orders = CommandOrders(**json.loads(sys.argv[2]))
    for name, target in orders.links:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        os.symlink(target, name)
    if orders.output is not None:
        os.makedirs(orders.output, exist_ok=True)
    program, *rest = orders.words
    if program == PYTHON:
        program, rest = sys.executable, ["-s", "-P", *rest]
    try:
        os.execvp(program, [program, *rest])
    except OSError as error:
        sys.exit(f"{program} cannot be run: {error.strerror}")
