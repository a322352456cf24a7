"""Reads stored answers of models again with the present code: at which step each fails, by model and edit format.

An answer is applied to the incumbent of its time, and novelty is not tested. Beside it the table shows how many ran and
crashed according to the journal. Nothing is asked, trained or changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment
from researcher.prompting.transcripts import Exchange, UnreadableTranscript, stored_exchanges
from researcher.proposers.draft import Draft
from researcher.proposers.llm_conversation import parse_and_validate
from researcher.source.proposal import AnswerStage, EditFormat, Proposal, formats_of
from researcher.source.validation import validate
from services.machine.state import State
from trainer.jobs import Outcome

NO_FORMAT = "none"
PASSED = {None: 3, AnswerStage.VALIDATE: 2, AnswerStage.APPLY: 1, AnswerStage.PARSE: 0}  # number of the steps below

# The counts of a model and an edit format; an answer that passes a step has passed those before it.
STEPS = ("parse", "apply", "validate")
COLUMNS = ("answers", *STEPS, "ran", "crashed")

Counts = Counter[tuple[str, str, str]]


def replay_proposals(state: State, console: Console) -> None:
    """Print the rates."""
    state.require_run()
    counts: Counts = Counter()
    with JournalReader(state.journal) as history:
        for item in history.experiments():
            if item.cost is None:
                continue
            try:
                exchanges = stored_exchanges(state.journal / "experiments" / str(item.number))
            except UnreadableTranscript as error:
                console.print(f"the answers of experiment {item.number} cannot be read: {error}", soft_wrap=True)
                exchanges = []
            counts += _read_again(history, item, item.cost.model, exchanges)
            counts += _became(history, item, item.cost.model)
    console.print(_table(counts))


def _read_again(history: JournalReader, item: Experiment, model: str, exchanges: Sequence[Exchange]) -> Counts:
    assert item.parent is not None
    source = history.source(item.parent)

    def vet(proposal: Proposal) -> Draft:
        return Draft(proposal, validate(proposal, source, lambda _: None))

    counts: Counts = Counter()
    for exchange in exchanges:
        if not exchange.reply or exchange.abridged:
            continue  # a server failed, or the stored answer is not whole
        proposal, _ = parse_and_validate(exchange.reply, source, vet, cut=exchange.cut)
        for attempt in proposal.attempts:
            for edit_format in attempt.edit_formats or (NO_FORMAT,):
                counts.update((model, edit_format, what) for what in ("answers", *STEPS[: PASSED[attempt.failed]]))
    return counts


def _became(history: JournalReader, item: Experiment, model: str) -> Counts:
    proposal = history.proposal(item.id)
    edit_formats = () if proposal is None or item.outcome is None else formats_of(proposal.edits)
    if item.outcome is Outcome.OK:
        return Counter((model, edit_format, "ran") for edit_format in edit_formats)
    if item.outcome is not None and item.outcome.is_failure:
        return Counter((model, edit_format, "crashed") for edit_format in edit_formats)
    return Counter()


def _table(counts: Counts) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    table.add_column("edit format")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for model in sorted({model for model, _, _ in counts}):
        for edit_format in (*EditFormat, NO_FORMAT):
            found = [counts[model, edit_format, column] for column in COLUMNS]
            if any(found):
                table.add_row(
                    model, edit_format, *(_cell(column, n, found[0]) for column, n in zip(COLUMNS, found, strict=True))
                )
    return table


def _cell(column: str, count: int, answers: int) -> str:
    if column not in STEPS:
        return str(count)
    return f"{count / answers:.0%}" if answers else "-"
