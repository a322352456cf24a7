"""The verdicts of dry runs on broken and on harmless edits before they cost a trial, and their times.

Limit: no harmless edit is rejected, and of the broken ones those that the table of `tests/subjects/broken.py` expects.
A model of billions of parameters shows that the time does not depend on the model.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Table

from researcher.prompting.reply_parser import one_line
from researcher.source.knobs import set_knobs
from services.machine.subject import render_subject
from tests.subjects.broken import BROKEN, FILES, INNOCENT
from tests.subjects.honest import HONEST_MODELS
from trainer.jobs import DryRunSpec, DryRunVerdict, profile_named
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.dry_run import run_dry_run

WIDTH, MESSAGE_CHARACTERS = 150, 72
HUGE = {"DEPTH": 24, "ASPECT_RATIO": 128}


@dataclass(frozen=True)
class Row:
    """One train.py and its expected verdict. With `expected` None every verdict but `fails` is right."""

    kind: str
    name: str
    files: Mapping[str, str]
    profile: str = "cpu"
    expected: DryRunVerdict | None = None


def run() -> None:
    """Print the table; exit 1 if a verdict is not as expected."""
    console, ground = Console(width=WIDTH), Path(tempfile.mkdtemp(prefix="overnight-bench-", dir="/var/tmp"))
    table = Table(title="what a dry run says before the trial", box=None, pad_edge=False)
    for name in ("", "train.py", "verdict", "line", "s", "reason"):
        table.add_column(name, justify="right" if name in ("line", "s") else "left", no_wrap=True)
    wrong, seconds = [], []
    try:
        for number, row in enumerate(track([*_rows()], "dry run", console=console, transient=True)):
            answer = run_dry_run(
                DryRunSpec(row.profile, dict(row.files)), _config(ground / str(number), row), lambda: False
            )
            seconds.append(answer.seconds)
            met = answer.verdict is not DryRunVerdict.FAILS if row.expected is None else answer.verdict is row.expected
            wrong += [] if met else [f"{row.kind} {row.name}: {answer.verdict}"]
            line = "" if answer.line is None else str(answer.line)
            said = one_line(answer.reason, MESSAGE_CHARACTERS)
            table.add_row(row.kind, row.name, str(answer.verdict), line, f"{answer.seconds:.1f}", said)
    finally:
        shutil.rmtree(ground)
    console.print(table)
    console.print(f"median {median(seconds):.1f} s, longest {max(seconds):.1f} s; not as expected: {wrong or 'none'}")
    if wrong:
        sys.exit(1)


def _rows() -> Iterator[Row]:
    yield from (Row("broken", each.name, each.files, expected=each.verdict) for each in BROKEN)
    yield from (Row("harmless", name, FILES | {"train.py": train}) for name, train in INNOCENT.items())
    for model in HONEST_MODELS:
        yield Row(
            "honest", model.name, {"train.py": model.train, "prepare.py": model.prepare}, expected=DryRunVerdict.PASSES
        )
    huge = render_subject(profile_named("80gb"))
    huge["train.py"] = set_knobs(huge["train.py"], HUGE)
    yield Row("huge", ", ".join(f"{name} {value}" for name, value in HUGE.items()), huge, "80gb", DryRunVerdict.PASSES)


def _config(folder: Path, row: Row) -> WorkerConfig:
    """Return folders with data of the row's vocabulary, all that a dry run reads of the data."""
    found = re.search(r"^VOCAB_SIZE = (\d+)", row.files["prepare.py"], re.MULTILINE)
    vocab_size = int(found[1]) if found else profile_named(row.profile).vocab_size
    for name in ("data", "trials", "work"):
        (folder / name).mkdir(parents=True, mode=0o700)
    (folder / "data" / "manifest.json").write_text(json.dumps({"vocab_size": vocab_size, "bos": 0}))
    return WorkerConfig(folder / "data", folder / "trials", folder / "work")
