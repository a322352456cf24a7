"""A user's own text: the *.txt and *.md files of a folder and its subfolders, in UTF-8, one document per file.

Whole files are held out by a rule on their content alone, so that renaming a file changes nothing. The same text in two
files counts once. With fewer than three files, each is cut by position. A very long file becomes several documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from trainer.data.documents import PreparationStep, Report, Split
from trainer.data.errors import TextUnusable

SUFFIXES = (".txt", ".md")
HELD_SHARE = 0.05
# A document is encoded in one piece, which takes about a hundred bytes of memory per token.
LONGEST_DOCUMENT = 1_000_000
_BY_POSITION: dict[Split, tuple[float, float]] = {
    "train": (0.0, 1 - 2 * HELD_SHARE),
    "val": (1 - 2 * HELD_SHARE, 1 - HELD_SHARE),
    "heldout": (1 - HELD_SHARE, 1.0),
}


@dataclass(frozen=True)
class TextFile:
    """A file, the hash of its text, and its length."""

    path: Path
    sha256: str
    characters: int


@dataclass(frozen=True)
class OwnText:
    """A folder of text files as a text. `own_text` makes it. `parts` are the used shares of each file."""

    files: dict[Split, tuple[TextFile, ...]]
    parts: dict[Split, tuple[float, float]]
    source: str
    how_split: str
    name: str = "own"

    def fetch(self, report: Report) -> None:
        """Report the number of files. Nothing needs to be fetched."""
        report(PreparationStep("read", sum(map(len, self.files.values())), None, "files", note=self.how_split))

    def count(self, split: Split) -> int:
        """Return the number of documents in a split."""
        return sum(1 for _ in self.documents(split))

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the documents of a split, in the order of the hashes of their files."""
        start, end = self.parts[split]
        for file in self.files[split]:
            text = _unchanged(file)
            part = text[cut_near(text, int(start * len(text))) : cut_near(text, int(end * len(text)))]
            yield from documents_of(part)


def own_text(folder: Path) -> OwnText:
    """Read a folder of text files. Raise TextUnusable, which names the file, if one cannot be used."""
    files = _distinct(_text_files(folder))
    source = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
    if len(files) < 3:
        every = tuple(files)
        return OwnText(
            files={"train": every, "val": every, "heldout": every},
            parts=_BY_POSITION,
            source=f"sha256 {source}",
            how_split=(
                f"by position, as there are fewer than three different files ({len(files)}): "
                "the last tenth of each, half for validation, half held out"
            ),
        )
    splits = hold_out(files)
    return OwnText(
        files=splits,
        parts=dict.fromkeys(splits, (0.0, 1.0)),
        source=f"sha256 {source}",
        how_split=(
            f"whole files: {len(splits['train'])} to train on, {len(splits['val'])} for validation, "
            f"{len(splits['heldout'])} held out, by the hash of their text"
        ),
    )


def private_name(text: OwnText) -> str:
    """Return the description of a private text as the unseen slice."""
    return f"private, {text.source}"


def whole(text: OwnText) -> Iterator[str]:
    """Yield every document of a text, from all splits."""
    files = {file.sha256: file for file in chain(*text.files.values())}
    for _, file in sorted(files.items()):
        yield from documents_of(_unchanged(file))


def hold_out(files: list[TextFile]) -> dict[Split, tuple[TextFile, ...]]:
    """Split at least three files, which are ordered by hash.

    The largest file is for training. Of the others, the first ones are for validation, up to a twentieth of the text,
    and the next ones are held out, up to the same size. Each split has at least one file.
    """
    wanted = HELD_SHARE * sum(file.characters for file in files)
    largest = max(files, key=lambda file: (file.characters, file.sha256))
    rest = [file for file in files if file is not largest]
    val = _first(rest[:-1], wanted)
    heldout = _first(rest[len(val) :], wanted)
    train = [largest, *rest[len(val) + len(heldout) :]]
    return {"train": tuple(train), "val": tuple(val), "heldout": tuple(heldout)}


def documents_of(text: str, longest: int = LONGEST_DOCUMENT) -> Iterator[str]:
    """Yield the text, or pieces cut between paragraphs if it is longer than `longest` characters."""
    start = 0
    while len(text) - start > longest:
        piece = text[start : start + longest]
        end = start + cut_near(piece, longest - longest // 8)
        yield text[start:end]
        start = end
    if text[start:].strip():
        yield text[start:]


def cut_near(text: str, place: int) -> int:
    """Return the position after the next end of a paragraph or of a line near `place`, or `place` without one.

    Positions at or beyond the start and the end of the text are clamped to them.
    """
    if place <= 0 or place >= len(text):
        return max(0, min(place, len(text)))
    for mark in ("\n\n", "\n"):
        found = text.find(mark, place - 1, place + len(text) // 50 + 1)
        if found >= 0:
            return found + len(mark)
    return place


def _first(files: list[TextFile], wanted: float) -> list[TextFile]:
    taken: list[TextFile] = []
    while len(taken) < len(files) and (not taken or sum(file.characters for file in taken) < wanted):
        taken.append(files[len(taken)])
    return taken


def _distinct(files: list[TextFile]) -> list[TextFile]:
    return [file for _, file in sorted({file.sha256: file for file in reversed(files)}.items())]


def _text_files(folder: Path) -> list[TextFile]:
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise TextUnusable(
            f"the text folder {folder} cannot be read ({error.strerror}); give a folder with *.txt or *.md files"
        ) from error
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    texts = ((path, _read(path)) for path in paths)
    files = [
        TextFile(path, hashlib.sha256(text.encode()).hexdigest(), len(text)) for path, text in texts if text.strip()
    ]
    if not files:
        raise TextUnusable(f"{folder} holds no *.txt or *.md file with any text in it; give a folder that does")
    return files


def _unchanged(file: TextFile) -> str:
    text = _read(file.path)
    if hashlib.sha256(text.encode()).hexdigest() != file.sha256:
        raise TextUnusable(f"{file.path} changed while it was read; run the same command again")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextUnusable(
            f"{path} is not UTF-8 (byte {error.start}); convert it, or move it out of the text folder"
        ) from error
    except OSError as error:
        raise TextUnusable(f"{path} cannot be read ({error.strerror}); move it out of the text folder") from error
