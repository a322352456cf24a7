"""Packs the compilers' caches of a work folder into a file, and unpacks such a file into another work folder.

Promises: only regular files below the two caches are packed, and no link is followed. Whoever unpacks gets files of its
own, which share nothing with the packed file or with another copy. Does not cover whose caches may be packed; see
`trainer.trial.compile_cache`.

Standard library only, and little of it, because the guardian imports this module.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys

from trainer.sandbox import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

CACHES = ("inductor", "triton")
NOBODY_ELSE = -1


def main() -> None:
    """Pack the caches below argv[4] to stdout, as the user argv[2] with the group argv[3], or as this one for -1.

    argv[5] limits the bytes. Exit with code 1 and a reason on a failure.
    """
    uid, gid, caches, most_bytes = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    if uid != NOBODY_ELSE:
        syscalls.become(uid, gid)
    with open(1, "wb") as packed:
        for name, path in _files_below(caches):
            with open(path, "rb") as file:
                content = file.read(most_bytes + 1)
            most_bytes -= len(content)
            if most_bytes < 0:
                sys.exit("they are too large")
            marshal.dump((name, content), packed)


def _files_below(caches: str) -> Iterator[tuple[str, str]]:
    """Yield the regular files of the caches: the name relative to `caches`, and the path."""
    for top in (os.path.join(caches, name) for name in CACHES):
        if os.path.islink(caches) or os.path.islink(top):
            continue
        for folder, _, files in os.walk(top):
            for path in (os.path.join(folder, file) for file in files):
                if stat.S_ISREG(os.lstat(path).st_mode):
                    yield os.path.relpath(path, caches), path


def unpack(packed_fd: int, caches: str) -> None:
    """Write the files of a packed file below `caches`, and close the descriptor.

    Raise OSError, or ValueError for a name that leaves the folder.
    """
    with open(packed_fd, "rb") as packed:
        while packed.peek(1):
            name, content = marshal.load(packed)
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"file name {name!r} leaves the caches")
            path = os.path.join(caches, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, content)


def _write(path: str, content: bytes) -> None:
    file: IO[bytes]
    with open(path, "wb") as file:
        file.write(content)
