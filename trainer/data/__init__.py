"""The prepared text of a profile: `prepare` makes it; `read_manifest` and `verify` read and test it.

`preparation` is the sequence of steps. `owntext`, `plays` and `shards` are sources of `documents`, and `download`
fetches files. `tokenizer` and `pack` turn documents into a file of rows, `packing` does so for each slice, and
`manifest` records the files. `generated` makes the unseen slice with `words` or `runs`. `adopted` and `foreign_prepare`
do the same with a user's own prepare.py. `durable` writes whole files, `rights` sets their modes, and `errors` holds
the errors. `task_data` holds a user's own task instead of a text.
"""

from trainer.data.documents import PreparationStep, Report, Slice, Split
from trainer.data.errors import DataError, FolderTaken, NotPrepared, ReaderMissing, SourceAway, TextUnusable
from trainer.data.generated import upgrade
from trainer.data.manifest import BOS, MANIFEST, ROWS, TOKEN_BYTES, TOKENIZER, Manifest, read_manifest, verify
from trainer.data.preparation import prepare

__all__ = [
    "BOS",
    "MANIFEST",
    "ROWS",
    "TOKENIZER",
    "TOKEN_BYTES",
    "DataError",
    "FolderTaken",
    "Manifest",
    "NotPrepared",
    "PreparationStep",
    "ReaderMissing",
    "Report",
    "Slice",
    "SourceAway",
    "Split",
    "TextUnusable",
    "prepare",
    "read_manifest",
    "upgrade",
    "verify",
]
