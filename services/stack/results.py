"""Fetching a run out of its container: what `overnight export` writes there, as files here.

Through the container's own tar, because its folder for this is memory, which the engine cannot copy from. A run's
volumes are not touched; data and models are not fetched.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from services.compose import Stack

RESEARCHER = "researcher"
_FOLDER = "/tmp/overnight-results"


def fetch(stack: Stack, to: Path) -> list[str]:
    """Write the results into a folder; the names of the files. Raises StackError where no run is up."""
    stack.output(RESEARCHER, "overnight", "export", "--to", _FOLDER)
    try:
        archive = stack.output(RESEARCHER, "tar", "--create", "--directory", _FOLDER, ".")
    finally:
        stack.output(RESEARCHER, "rm", "-r", _FOLDER)
    return unpack(archive, to)


def unpack(archive: bytes, to: Path) -> list[str]:
    """Write the plain files of a tar side by side into a folder; folders and links in it are left out."""
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
