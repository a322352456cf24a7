"""Becomes the candidates' user in a process of its own, and tries to enter, open and write folders and to start Python.

After the first failure, the last line of output is JSON with the failure (`found`) and the `next_step`, and the exit
code is CLOSED. The kernel answers for that user; the module computes no rights itself. It uses only the standard
library, because that user may be unable to read anything else.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

from trainer.sandbox import syscalls

CLOSED = 3  # the exit code; an interpreter that does not start has another one
MOVE = (
    "keep Overnight, Python and state where every user may enter, such as /opt/overnight (install it there again), "
    "/usr/bin/python3 and --state /var/lib/overnight"
)


def main() -> None:
    """Become the user and try everything in the orders. argv[2:] holds uid, gid, and orders as JSON.

    The orders are `paths` (each with its resolved path and the rights needed), a `folder` to write in, or null, and the
    `argv` of the program to start at the end.
    """
    uid, gid, orders = int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    try:
        syscalls.become(uid, gid)
    except OSError as error:
        _fail(f"this process may not become uid {uid}: {error.strerror}", "start it with the capabilities of root")
    for path, end, rights in orders["paths"]:
        if not os.access(path, rights):
            _fail(f"uid {uid} may not {_closed(path) or _closed(end) or f'use {path}'}", MOVE)
    if orders["folder"] is not None:
        try_to_write_in(orders["folder"])
    os.execv(orders["argv"][0], orders["argv"])


def try_to_write_in(folder: str) -> None:
    """Make and remove a folder. Some file systems have no owners, but report that they changed the owner."""
    made = os.path.join(folder, "reach")
    try:
        os.mkdir(made)
        os.rmdir(made)
    except OSError as error:
        _fail(f"uid {os.getuid()} may not write in {folder}, which is its own: {error.strerror}", MOVE)


def _closed(path: str) -> str | None:
    """Return half a sentence about the first closed folder on the way to a path, or None."""
    parts = path.split("/")
    for folder in ("/".join(parts[:count]) for count in range(2, len(parts) + 1)):
        if os.path.isdir(folder) and not os.access(folder, os.X_OK):
            return f"enter {folder}" + (f", on the way to {path}" if folder != path else "")
    return None


def _fail(found: str, next_step: str) -> NoReturn:
    print(json.dumps({"found": found, "next_step": next_step}))
    sys.exit(CLOSED)
