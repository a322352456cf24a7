"""A user's own task as a trainer holds it: a manifest.json with a task, in place of that of a text.

Its digest stands in each trial's spec, so a trainer with another task, or with other pinned files, does not answer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from trainer.data.durable import write_whole
from trainer.data.manifest import MANIFEST
from trainer.jobs.task import Task


@dataclass(frozen=True)
class TaskData:
    """A task, and the absolute path of the repository to which its relative paths belong."""

    task: Task
    repository: str

    @property
    def digest(self) -> str:
        """The name of these data: a hash of the task and the path."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def hides(self, path: str) -> bool:
        """Return whether only the score command may read this path of the repository."""
        return self.task.hides(path, PurePosixPath(self.repository))

    def links(self, paths: tuple[str, ...]) -> list[tuple[str, str]]:
        """Return each relative path with its absolute path."""
        return [(path, str(Path(self.repository, path))) for path in paths if not path.startswith("/")]

    def absolute(self, paths: tuple[str, ...]) -> list[str]:
        """Return the paths as absolute ones."""
        return [str(Path(self.repository, path)) for path in paths]

    @classmethod
    def from_manifest(cls, manifest: bytes) -> TaskData | None:
        """Return the task in a manifest, or None if that is of a text, or unreadable. Raise ValueError for damage."""
        try:
            values = json.loads(manifest)
        except ValueError:
            return None
        return _ADAPTER.validate_python(values) if isinstance(values, dict) and "task" in values else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(_ADAPTER.dump_python(self, mode="json"))


_ADAPTER = TypeAdapter(TaskData)


def write_task_data(data: Path, held: TaskData) -> None:
    """Write the manifest of a task into the folder `data`, with its digest where that of a text stands."""
    data.mkdir(parents=True, exist_ok=True)
    write_whole(data / MANIFEST, json.dumps({"digest": held.digest, **held.to_json()}, indent=1).encode())


def read_task_data(data: Path) -> TaskData | None:
    """Return the task in the folder `data`, or None if that holds no task. Raise ValueError for a damaged one."""
    try:
        return TaskData.from_manifest((data / MANIFEST).read_bytes())
    except OSError:  # `trainer.scoring.rows` says what is wrong with the data of a text
        return None
