"""A process that takes a candidates' user for good and tries what a candidate needs: enter, open, write, start.

Where something does not work, its last line is JSON with the first such thing as `found` and the `next_step`, and it
ends with CLOSED. It asks the kernel as that user and computes no rights itself. Standard library only: nothing else is
known to work yet.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

from trainer.sandbox import syscalls

CLOSED = 3  # the exit code; an interpreter that does not start ends with another
MOVE = (
    "keep checkout, Python and state where every user may enter, such as /opt/overnight (scripts/setup there), "
    "/usr/bin/python3 and --state /var/lib/overnight"
)


def main() -> None:
    """Entry point: argv holds uid, gid and the orders as JSON: `paths`, each with the end of all its links and the
    rights that are needed there; a `folder` to make something in, if not null; the `argv` to end with."""
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
    """Some file systems know no owners, and answer all the same that they changed one."""
    made = os.path.join(folder, "reach")
    try:
        os.mkdir(made)
        os.rmdir(made)
    except OSError as error:
        _fail(f"uid {os.getuid()} may not write in {folder}, which is its own: {error.strerror}", MOVE)


def _closed(path: str) -> str | None:
    """The folder that is shut, the first on the way."""
    parts = path.split("/")
    for folder in ("/".join(parts[:count]) for count in range(2, len(parts) + 1)):
        if os.path.isdir(folder) and not os.access(folder, os.X_OK):
            return f"enter {folder}" + (f", on the way to {path}" if folder != path else "")
    return None


def _fail(found: str, next_step: str) -> NoReturn:
    print(json.dumps({"found": found, "next_step": next_step}))
    sys.exit(CLOSED)
