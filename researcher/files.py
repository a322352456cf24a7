"""Reads text that users may have written. Writes files atomically, and syncs files to the disk."""

from __future__ import annotations

import os
from pathlib import Path

from researcher.errors import NotText


def read_text(path: Path) -> str:
    """Return the text of a file of UTF-8, without a byte order mark. Raises NotText or OSError."""
    return text_of(path.read_bytes(), str(path))


def text_of(content: bytes, name: str) -> str:
    """Return content of UTF-8 as text, with the line ends of Unix. Raises NotText, whose message has the `name`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start + 1} is {content[error.start]:#04x}"
        raise NotText(f"{name} is not text in UTF-8 ({wrong}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file's content in one step that survives power loss. An OSError names the file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        sync(partial)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Wait until the disk has the content of a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has a folder with all files and folders in it."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            sync(path)
