"""The prepared text of a profile: `prepare` makes it, `read_manifest` and `verify` say what is there.

Fetching, splitting, the tokenizer and packing are hidden; what comes out is a folder of arrays and its manifest.
"""

from trainer.data.documents import Report, Slice, Split, Stage
from trainer.data.errors import DataError, FolderTaken, NotPrepared, SourceAway, TextUnusable
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
    "Report",
    "Slice",
    "SourceAway",
    "Split",
    "Stage",
    "TextUnusable",
    "prepare",
    "read_manifest",
    "upgrade",
    "verify",
]
