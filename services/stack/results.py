"""Copies a run's results out of its container: the files that `overnight export` writes there.

It uses the container's own tar, because the folder is in memory, from which the engine cannot copy. It does not touch
the volumes of a run, and does not copy data and models.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from services.compose import Stack

RESEARCHER = "researcher"
_FOLDER = "/tmp/overnight-results"


def fetch(stack: Stack, to: Path) -> list[str]:
    """Write the results into a folder; return the names of the files. Raises StackError if no run is up."""
    stack.output(RESEARCHER, "overnight", "export", "--to", _FOLDER)
    try:
        archive = stack.output(RESEARCHER, "tar", "--create", "--directory", _FOLDER, ".")
    finally:
        stack.output(RESEARCHER, "rm", "-r", _FOLDER)
    return unpack(archive, to)


def unpack(archive: bytes, to: Path) -> list[str]:
    """Write the plain files of a tar side by side into a folder, without its folders and links; return their sorted
    names."""
    to.mkdir(parents=True, exist_ok=True)
    names = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                name = Path(member.name).name
                (to / name).write_bytes(content.read())
                names.append(name)
    return sorted(names)
