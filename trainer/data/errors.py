"""Errors of data preparation. Each message names the problem, the place and the next step.

DataError
├── SourceAway      a package or a shard cannot be fetched
├── TextUnusable    a text exists but cannot be used
├── ReaderMissing   the package that reads the text is not installed
├── FolderTaken     the folder holds other data, or another process is preparing it
└── NotPrepared     the folder holds no finished data, or the data are damaged
"""


class DataError(Exception):
    """The base of all errors of data preparation."""


class SourceAway(DataError):
    """Raised when a package or a shard cannot be fetched."""


class TextUnusable(DataError):
    """Raised when a text exists but cannot be used: wrong hash, not UTF-8, too small, no `text` column."""


class ReaderMissing(DataError):
    """Raised when the package that reads the text is not installed."""


class FolderTaken(DataError):
    """Raised when the folder holds other data, finished or not, or another process is preparing it."""


class NotPrepared(DataError):
    """Raised when the folder holds no finished data, or when the data are damaged."""
