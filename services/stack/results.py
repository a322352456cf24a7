"""Copies a run's results out of the researcher's container: the files that `overnight export` writes there.

It uses the container's own tar, because the folder is in memory, from which the engine cannot copy. If the researcher
does not run, as after `scripts/down`, a container of its image that only reads the volumes takes its place. It does
not touch the volumes of a run, and does not copy data and models.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from services.machine.compose import OneShot, Stack
from services.machine.installation import version

RESEARCHER = "researcher"
IMAGE = f"overnight/researcher:{version()}"
_FOLDER = "/tmp/overnight-results"
_EXPORT = ("overnight", "export", "--to", _FOLDER)
_VOLUMES = ("journal", "subject", "trials")


def fetch(stack: Stack, to: Path, user: str, image: str = IMAGE) -> list[str]:
    """Write the results into a folder; return the names of the files.

    `user` is that of the researcher, and `image` its image, for a stack that does not run. Raises StackError without a
    run.
    """
    is_up = any(each.service == RESEARCHER and each.state == "running" for each in stack.containers())
    if not is_up and set(_VOLUMES) <= set(stack.volumes()):
        places = {name: f"/state/{name}" for name in _VOLUMES}
        one_shot = OneShot(image, user, _EXPORT, places, {"OVERNIGHT_STATE": "/state", "HOME": "/tmp"})
        return unpack(stack.made_by(one_shot, _FOLDER), to)
    stack.output(RESEARCHER, *_EXPORT)
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
