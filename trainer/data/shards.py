"""The climbmix shards of the GPU profiles: parquet files under a base URL, with one shard pinned for validation.

In the pinned shard every second document is for validation, and the others are held out. A base URL is an http(s)
address, a file:// address or a folder.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.documents import PreparationStep, Report, Split
from trainer.data.download import download
from trainer.data.errors import DataError, ReaderMissing, TextUnusable

BASE_URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
BASE_URL_KEY = "OVERNIGHT_SHARDS_URL"
PINNED_SHARD = 6542
TRAIN_SHARDS = 10
COLUMN = "text"
_MAGIC = b"PAR1"
_BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class Climbmix:
    """The shards as a text. `folder` keeps downloaded shards, which then need no network."""

    folder: Path
    base_url: str = BASE_URL
    train_shards: int = TRAIN_SHARDS
    sleep: Callable[[float], None] = time.sleep
    name: str = "climbmix"

    def __post_init__(self) -> None:
        if not 1 <= self.train_shards <= PINNED_SHARD:
            raise DataError(f"{self.train_shards} training shards: give a number from 1 to {PINNED_SHARD}")

    @property
    def source(self) -> str:
        """The base URL and the numbers of the shards."""
        return f"{self.base_url.rstrip('/')} shards 0..{self.train_shards - 1} and {PINNED_SHARD}"

    @property
    def how_split(self) -> str:
        """The rule of the split as a text."""
        return f"shards 0..{self.train_shards - 1} to train on; shard {PINNED_SHARD}: validation and held out in turn"

    def fetch(self, report: Report) -> None:
        """Download missing shards. Raises ReaderMissing before the first one if nothing could read them."""
        _arrow("pyarrow")
        names = [shard_name(number) for number in (PINNED_SHARD, *range(self.train_shards))]
        for place, name in enumerate(names, 1):
            stage = f"download {place} of {len(names)}"

            def arrived(done: int, total: int | None, stage: str = stage, name: str = name) -> None:
                report(PreparationStep(stage, done, total, "bytes", note=name))

            download(f"{self.base_url.rstrip('/')}/{name}", self.folder / name, arrived, self.sleep)
            _check_parquet(self.folder / name)

    def count(self, split: Split) -> int:
        """Return the number of documents in a split."""
        if split == "train":
            return sum(_open(path).metadata.num_rows for path in self._train_paths())
        pinned: int = _open(self._pinned_path()).metadata.num_rows
        return (pinned + 1) // 2 if split == "val" else pinned // 2

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the documents of a split, in the order of the shards."""
        if split == "train":
            for path in self._train_paths():
                yield from _texts(path)
            return
        wanted = 0 if split == "val" else 1
        for number, text in enumerate(_texts(self._pinned_path())):
            if number % 2 == wanted:
                yield text

    def _train_paths(self) -> list[Path]:
        return [self.folder / shard_name(number) for number in range(self.train_shards)]

    def _pinned_path(self) -> Path:
        return self.folder / shard_name(PINNED_SHARD)


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard_{number:05d}.parquet"


def _check_parquet(path: Path) -> None:
    """Raise TextUnusable and remove the file if it is no shard but, for example, a proxy's error page."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
        file.seek(max(0, path.stat().st_size - len(_MAGIC)))
        tail = file.read()
    if head != _MAGIC or tail != _MAGIC:
        path.unlink()
        raise TextUnusable(
            f"{path.name} is not a parquet file and was removed; check the base URL and run `overnight prepare` again"
        )


def _texts(path: Path) -> Iterator[str]:
    arrow = _arrow("pyarrow")
    try:
        for batch in _open(path).iter_batches(batch_size=_BATCH_DOCUMENTS, columns=[COLUMN]):
            yield from (text for text in batch.column(0).to_pylist() if text)
    except (arrow.ArrowException, OSError) as error:
        raise TextUnusable(f"{path} is damaged ({error}); remove it and run `overnight prepare` again") from error


def _open(path: Path) -> Any:
    arrow = _arrow("pyarrow")
    try:
        file = _arrow("pyarrow.parquet").ParquetFile(path)
    except arrow.ArrowException as error:
        raise TextUnusable(f"{path} is damaged ({error}); remove it and run `overnight prepare` again") from error
    if COLUMN not in file.schema_arrow.names:
        raise TextUnusable(f"{path} has no column {COLUMN!r}, only {file.schema_arrow.names}; check the base URL")
    return file


def _arrow(module: str) -> Any:
    """Import pyarrow on first use. The profile `cpu` never needs pyarrow, which is the trainer's slowest import."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ReaderMissing("the shards of the GPU profiles need pyarrow, which is not installed") from error
