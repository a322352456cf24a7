"""The faults of small models and their servers, row by row, and their costs: the run of test_faults.py.

The scripted trainer measures the run itself. Every trial of it is then trained for real, twenty steps on the CPU with
the real scoring, because only that shows a crash. Limit: less than 5 % of the trials crash.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from researcher.journal.reader import JournalReader
from researcher.prompting.reply_parser import one_line
from researcher.source.proposal import EditFormat, formats_of
from services.machine.state import State
from tests.bench.replay import replay_proposals
from tests.doubles.fault_scenarios import FILES, SCENARIOS
from tests.fixtures.faulty_run import Seen, run_faults
from tests.fixtures.scripted_run import ScriptedRun
from tests.fixtures.servers import open_server
from tests.fixtures.trials import miniature, tiny_data
from trainer.jobs import Outcome
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

CRASH_BAR = 0.05
WIDTH, MESSAGE_CHARACTERS = 150, 72


def run() -> None:
    """Print the tables; exit 1 if too many trials crash."""
    ground = Path(tempfile.mkdtemp(prefix="overnight-bench-", dir="/var/tmp"))
    try:
        console, state = Console(width=WIDTH), State(ground / "night")
        state.root.mkdir()
        with open_server(ground / "redis") as server:
            scripted_run = ScriptedRun(state.root, server, FILES)
            try:
                scripted_run.start_trainer()
                seen = run_faults(scripted_run)
            finally:
                scripted_run.end()
        state.resolve(profile="cpu", detect=str)
        console.print(_rows(seen))
        replay_proposals(state, console)
        outcomes = _trained(state, ground)
    finally:
        shutil.rmtree(ground)
    trials, crashed = sum(outcomes.values()), sum(n for (_, ran), n in outcomes.items() if not ran)
    for edit_format in EditFormat:
        ran, failed = outcomes[edit_format, True], outcomes[edit_format, False]
        if ran or failed:
            console.print(f"trained for real, edit format {edit_format}: {ran} ran, {failed} crashed")
    console.print(f"{crashed} of {trials} trials crashed ({crashed / trials:.1%}; bar: below {CRASH_BAR:.0%})")
    if crashed >= CRASH_BAR * trials:
        sys.exit(1)


def _rows(seen: Mapping[str, Seen]) -> Table:
    table = Table(title="what goes wrong, and what became of it", box=None, pad_edge=False)
    for name in ("scenario", "refused", "trials", "went on", "said in the log"):
        table.add_column(name, justify="left" if name in ("scenario", "said in the log") else "right", no_wrap=True)
    for row in SCENARIOS:
        became = seen[row.name]
        refused = [item for item in became.experiments if item.outcome is Outcome.REJECTED]
        trials = str(len(became.experiments) - len(refused))
        went_on = "yes" if became.next_one.outcome is Outcome.OK else "NO"
        said = one_line(refused[-1].reason or "", MESSAGE_CHARACTERS) if refused else "read as it was meant"
        table.add_row(row.name, str(len(refused)), trials, went_on, said)
    return table


def _trained(state: State, ground: Path) -> Counter[tuple[EditFormat, bool]]:
    """Train each trial; count by the edit format of its first edit whether it reached its score."""
    data = tiny_data(ground / "data")
    outcomes: Counter[tuple[EditFormat, bool]] = Counter()
    with JournalReader(state.journal) as history:
        measured = [item for item in history.experiments() if item.was_measured]
        for item in track(measured, "training for real", transient=True):
            proposal = history.proposal(item.id)
            assert proposal is not None
            folder = ground / str(item.number)
            (folder / "trials").mkdir(parents=True)
            (folder / "work").mkdir(mode=0o700)
            spec = miniature(data, history.source(item.id), trial=f"f-{item.number}-t1-a1")
            places = WorkerConfig(data, folder / "trials", folder / "work")
            result = run_trial(spec, places, lambda _: None, lambda: False)
            outcomes[formats_of(proposal.edits)[0], result.outcome is Outcome.OK] += 1
    return outcomes
