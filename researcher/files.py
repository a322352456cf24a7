"""Reads text that users may have written, and writes files atomically."""

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
    """Replace a file's content in one step that survives power loss."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
