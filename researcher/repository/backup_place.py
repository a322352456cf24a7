"""The places of backups: a folder, or a remote of the program rclone. A file of a place is replaced as a whole."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from researcher.errors import BackupError, BadValue
from researcher.files import sync
from trainer.jobs.environment import Program, environment

RCLONE = "rclone:"
PLACE = r"rclone:\w[\w .+@-]*:[^\n]*|/[^\n]*"  # rclone's own syntax for a remote without a name could hold its password
RCLONE_LIMIT_S = 300.0
_NO_FOLDER = 3  # rclone's exit code
_PATIENCE = ("--contimeout=15s", "--timeout=60s", "--retries=2", "--ask-password=false")


class BackupPlace(Protocol):
    """A place that holds files by name. Its methods raise BackupError or OSError."""

    def put(self, file: Path) -> None:
        """Put a file under its own name; until it is there whole, the one before stays."""

    def names(self) -> list[str]:
        """Return the names of the files."""

    def get(self, name: str, target: Path) -> None:
        """Copy a file to `target`."""


@dataclass(frozen=True)
class FolderPlace:
    """A folder, which is created if the folder around it exists."""

    folder: Path

    def put(self, file: Path) -> None:
        """Put a file under its own name; until the disk has all of it, the one before stays."""
        self.folder.mkdir(exist_ok=True)
        partial = self.folder / f".{file.name}.partial"
        try:
            partial.touch(mode=0o600)  # a candidate of another user must not read the journal
            shutil.copyfile(file, partial)
            sync(partial)
            partial.replace(self.folder / file.name)
            sync(self.folder)
        finally:
            partial.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the names of the files."""
        return [path.name for path in self.folder.iterdir()] if self.folder.exists() else []

    def get(self, name: str, target: Path) -> None:
        """Copy a file to `target`."""
        shutil.copyfile(self.folder / name, target)


@dataclass(frozen=True)
class RclonePlace:
    """A folder of a remote in rclone's configuration, such as `box:runs`."""

    remote: str

    def put(self, file: Path) -> None:
        """Put a file under its own name; until the remote has all of it, the one before stays."""
        partial = self._path(f"{file.name}.partial")
        self._rclone("copyto", str(file), partial)
        self._rclone("moveto", partial, self._path(file.name))

    def names(self) -> list[str]:
        """Return the names of the files."""
        return self._rclone("lsf", "--files-only", self.remote, may_lack_folder=True).splitlines()

    def get(self, name: str, target: Path) -> None:
        """Copy a file to `target`."""
        self._rclone("copyto", self._path(name), str(target))

    def _path(self, name: str) -> str:
        return f"{self.remote}{'' if self.remote.endswith((':', '/')) else '/'}{name}"

    def _rclone(self, *arguments: str, may_lack_folder: bool = False) -> str:
        """Return what rclone prints."""
        try:
            done = subprocess.run(
                ["rclone", *arguments, *_PATIENCE],
                env=environment(Program.RCLONE),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=RCLONE_LIMIT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise BackupError("rclone is not on PATH", "sudo apt-get install rclone, then `rclone config`") from error
        except subprocess.TimeoutExpired as error:
            raise BackupError(
                f"rclone {arguments[0]} took more than {RCLONE_LIMIT_S:.0f} s", f"look with `rclone lsf {self.remote}`"
            ) from error
        if done.returncode and not (may_lack_folder and done.returncode == _NO_FOLDER):
            last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise BackupError(f"rclone {arguments[0]}: {last}", f"look with `rclone lsf {self.remote}`")
        return done.stdout


def checked_place(text: str) -> str:
    """Return the text of a place. Raises BadValue for any other text."""
    if re.fullmatch(PLACE, text) is None:
        raise BadValue(f"{text!r} is no place for a backup", "write /srv/runs, or rclone:REMOTE:PATH")
    return text


def place_of(text: str) -> BackupPlace:
    """Return the place that a checked text names."""
    if text.startswith(RCLONE):
        return RclonePlace(text.removeprefix(RCLONE))
    return FolderPlace(Path(text))
