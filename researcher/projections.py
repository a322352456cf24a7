"""What is rebuilt from the journal at will: results.tsv and progress.png, in the subject repository's root.

Each is written by temp + fsync + rename, so a reader sees the old file or the new one; deleting them loses nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from researcher.view import Night, Row

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
NO_NUMBER = "—"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def results_tsv(night: Night) -> str:
    """The table users of this kind of loop know: measured experiments, oldest first; an em dash for no number.

    Every keep of the walk is a `keep`; whether it is confirmed, provisional or rolled back ends its description.
    """
    lines = [_line(row) for row in night.rows if row.experiment.decision is not None and row.status != "rejected"]
    return "\n".join([HEADER, *lines]) + "\n"


def _line(row: Row) -> str:
    item, memory_gb, note = row.experiment, row.memory_gb, row.note
    return "\t".join(
        (
            (item.commit_sha or NO_NUMBER)[:7],
            NO_NUMBER if item.score is None else f"{item.score:.6f}",
            NO_NUMBER if memory_gb is None else f"{memory_gb:.1f}",
            row.status,
            _CONTROL.sub(" ", f"{item.title.strip()} ({note})" if note else item.title).strip(),
        )
    )


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file's content in one step that survives power loss."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
