"""Errors of data preparation: each message says what, where and the next step.

DataError
├── SourceAway      a package or a shard cannot be fetched
├── TextUnusable    a text is there, but it is not what it has to be
├── FolderTaken     the folder holds other data, or another process is preparing it
└── NotPrepared     the folder holds no finished data, or the data are damaged
"""


class DataError(Exception):
    """Base of them all."""


class SourceAway(DataError):
    """A package or a shard cannot be fetched."""


class TextUnusable(DataError):
    """A text is there, but it is not what it has to be: wrong hash, not UTF-8, too small, no `text` column."""


class FolderTaken(DataError):
    """The folder holds other data, finished or not, or another process is preparing it."""


class NotPrepared(DataError):
    """The folder holds no finished data, or the data are damaged."""
