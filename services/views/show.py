"""Prints or writes a run for `overnight status, log, diff, best, export`, from the read model alone."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from researcher.decision.machine_speed import speed_text
from researcher.errors import ResearcherError
from researcher.files import write_whole
from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment, PaidCall
from researcher.proposers.escalation import belongs_to
from researcher.report.proposer_stats import proposers_text
from researcher.report.results_table import ResultsTable, all_columns_text
from researcher.report.snapshot import Report, snapshot
from researcher.report.view import Row, RunReport
from services.machine.state import State
from services.views.client import ClientError, open_bus
from services.views.render import (
    Scene,
    confirmation_text,
    draw,
    experiments_table,
    gap_text,
    heldout_text,
    print_line,
)
from trainer.jobs import RedisClient, TrialResult

if TYPE_CHECKING:
    from researcher.repository.repository import Workspace

BUNDLE = "subject.bundle"
_NO_WIDTH = 100_000  # characters; no line is longer
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class NothingToShow(ResearcherError):
    """The run has no such result yet; the message says what is missing."""


class Form(StrEnum):
    """The form of a table of experiments."""

    TABLE = "table"
    JSON = "json"
    TSV = "tsv"


def show_status(state: State, console: Console, *, as_json: bool, verbose: bool) -> None:
    """Print the state of the run; the live part only if Redis answers."""
    with _history(state) as history:
        report = _snapshot(history, state, open_bus_if_known(state))
    if as_json:
        print(json.dumps(report.to_json()))
        return
    _begun(report)
    console.print(draw(Scene(report, verbose=verbose)))
    if report.options:
        options = " ".join(f"{key}={value}" for key, value in sorted(report.options.items()))
        console.print(f"options  {options}", style="dim", soft_wrap=True)


def show_log(state: State, number: int | None, console: Console, form: Form = Form.TABLE) -> None:
    """Print all experiments as a table, or everything about one."""
    with _history(state) as history:
        report = _snapshot(history, state)
        run_report = _begun(report)
        if number is not None and form is Form.TABLE:
            _print_experiment(history, run_report, history.numbered(number), state, console)
            return
        if number is not None:
            number = history.numbered(number).number
        rows = [row for row in run_report.rows if number in (None, row.experiment.number)]
        objects = [row for row in report.rows_json() if number in (None, row["number"])]
    if form is Form.JSON:
        print(json.dumps(objects if number is None else objects[0]))
    elif form is Form.TSV:
        _write_out(all_columns_text(rows))
    else:
        _print_table(rows, console)


def _print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the experiments: on a terminal in its width, in a pipe or a file without cuts."""
    if console.is_terminal:
        console.print(experiments_table(rows))
        return
    whole = Console(file=io.StringIO(), width=_NO_WIDTH, markup=False, highlight=False, color_system=None)
    with whole.capture() as captured:
        whole.print(experiments_table(rows, whole=True))
    for line in captured.get().splitlines():
        print(line.rstrip())


def show_diff(state: State, number: int, console: Console) -> None:
    """Print the change of an experiment against its parent."""
    with _history(state) as history:
        experiment = history.numbered(number)
        if experiment.commit_sha is None or experiment.parent is None:
            why = "it is the baseline" if experiment.is_baseline else experiment.reason or experiment.state
            raise NothingToShow(f"experiment {number} changed nothing: {why}")
        _print_diff(state, history.experiment(experiment.parent), experiment, console)


def show_best(state: State, console: Console, *, source: bool) -> None:
    """Print the best version so far against the baseline, or its train.py and nothing else."""
    with _history(state) as history:
        report = _begun(_snapshot(history, state))
        head = report.incumbent
        if head is None:
            raise NothingToShow("the baseline is not measured yet")
        if source:
            _write_out(history.source(head.experiment.id))
            return
        console.print(experiments_table([head]))
        if head.experiment.is_baseline:
            console.print("the baseline is the best version so far")
            return
        mean = f"{report.run.metric.text(fmean(report.incumbent_scores))} over {len(report.incumbent_scores)} seeds"
        confirmed = report.run.incumbent == report.run.confirmed
        console.print(f"{mean}, {'confirmed' if confirmed else 'provisional: no claim was made for it yet'}")
        if unseen := heldout_text(report):
            console.print(unseen)
        _print_diff(state, report.rows[0].experiment, head.experiment, console)


def export(state: State, to: Path, console: Console) -> None:
    """Write results.tsv and .json, proposers.tsv, the pictures, the best train.py and the subject's history into a
    folder."""
    from researcher.report.picture import draw as draw_picture  # noqa: PLC0415 - matplotlib is slow to import
    from researcher.report.picture_layout import LOOKS  # noqa: PLC0415

    with _history(state) as history:
        report = _snapshot(history, state)
        run_report = _begun(report)
        to.mkdir(parents=True, exist_ok=True)
        write_whole(to / "results.tsv", ResultsTable(history).text().encode())
        write_whole(to / "results.json", json.dumps(report.rows_json(), indent=1).encode())
        write_whole(to / "proposers.tsv", proposers_text(report.rates).encode())
        for name, look in LOOKS.items():
            write_whole(to / name, draw_picture(run_report, look))
        if run_report.run.incumbent is not None:
            write_whole(to / "train.py", history.source(run_report.run.incumbent).encode())
    with _workspace(state) as workspace:
        workspace.bundle(run_report.run.branch, to / BUNDLE)
    console.print(f"written to {to.resolve()}", soft_wrap=True)


def _history(state: State) -> JournalReader:
    state.require_run()
    return JournalReader(state.journal)


def open_bus_if_known(state: State) -> RedisClient | None:
    """Connect to the run's Redis; None if its address is unknown."""
    try:
        return open_bus(state)
    except ClientError:
        return None


def _snapshot(history: JournalReader, state: State, bus: RedisClient | None = None) -> Report:
    report = snapshot(history, bus, state.require_run().trial_profile(), time.time())
    return replace(report, options=state.settings())


def _begun(report: Report) -> RunReport:
    if report.run_report is None:
        raise NothingToShow("no run has started yet")
    return report.run_report


def _print_diff(state: State, old: Experiment, new: Experiment, console: Console) -> None:
    assert old.commit_sha is not None
    assert new.commit_sha is not None
    with _workspace(state) as workspace:
        text = workspace.diff(old.commit_sha, new.commit_sha)
    if console.is_terminal:
        from rich.syntax import Syntax  # noqa: PLC0415 - imports every lexer's table

        console.print(Syntax(harmless(text), "diff", background_color="default", word_wrap=True))
    else:
        _write_out(f"{text}\n")


def _workspace(state: State) -> closing[Workspace]:
    """Open the run's repository."""
    from researcher.repository.repository import Workspace  # noqa: PLC0415 - imports git, which `status` does not need
    from services.machine.subject import repository_of  # noqa: PLC0415

    return closing(Workspace(repository_of(state), script=state.require_run().script))


def _write_out(text: str) -> None:
    """Write text for another program, in UTF-8 whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
    sys.stdout.buffer.flush()


def harmless(text: str) -> str:
    """Replace control characters, with which a model's source could steer a terminal."""
    return _CONTROL.sub("�", text)


def _print_experiment(
    history: JournalReader, report: RunReport, experiment: Experiment, state: State, console: Console
) -> None:
    name = (f"{experiment.number}  {experiment.title}", "bold")
    console.print(Text.assemble(name, f"  ({experiment.proposer or 'the subject'})"))
    print_line(console, f"why       {experiment.hypothesis}")
    print_line(console, f"decision  {experiment.decision or experiment.state}: {experiment.reason or ''}")
    if (compared := report.heldout.keeps.get(experiment.id)) is not None:
        gains = f"gain {compared.heldout_gain:+.6f} there and {compared.val_gain:+.6f} on val"
        print_line(console, f"held out  {gains}; {gap_text(compared)}")
    for confirmation in report.decided_confirmations(experiment):
        print_line(console, confirmation_text(report, confirmation))
    if experiment.cost is not None:
        cost = experiment.cost
        print_line(
            console, f"LLM       {cost.model}: {cost.calls} calls, {cost.seconds:.1f} s, {cost.answer_tokens} tokens"
        )
    for call in report.paid:
        if belongs_to(call, experiment):
            print_line(console, f"stronger  {call_text(call)}")
    for item in history.trials(experiment=experiment.id):
        metric = report.run.metric
        score = "no score yet" if item.val_bpb is None else f"{metric.name} {metric.text(item.val_bpb)}"
        score += "" if item.heldout_bpb is None else f", held out {item.heldout_bpb:.6f}"
        score += "" if item.unseen_bpb is None else f", unseen {item.unseen_bpb:.6f}"
        end = "queued" if item.outcome is None else item.outcome.text
        print_line(console, f"trial {item.number}   {item.kind}, seed {item.seed}: {end}, {score}")
        if (machine := speed_text(item)) is not None:
            print_line(console, f"          {machine}")
        result = history.result(item.id)
        if result is not None and result.layers:
            print_line(console, f"          behind {', '.join(result.layers)}")
        if result is not None and (looked := closer_look(result)) is not None:
            print_line(console, f"          {looked}")
        if result is not None and result.log is not None:
            console.rule(f"log, {result.log.seen_bytes:,} bytes seen")
            path = state.trials / result.log.path
            console.out(
                path.read_text(encoding="utf-8", errors="replace") if path.exists() else result.log.tail,
                highlight=False,
            )


def call_text(call: PaidCall) -> str:
    """Return one call of the stronger model as text: its reason, its tokens, its price."""
    tokens = "tokens not known" if call.money is None else f"{call.prompt_tokens} + {call.answer_tokens} tokens"
    price = f"counted with the most it can cost, {call.worst:.4f}" if call.money is None else f"cost {call.money:.4f}"
    return f"asked because of {call.why}: {tokens}, {price}{'' if call.fault is None else f'; {call.fault}'}"


def closer_look(result: TrialResult) -> str | None:
    """Return how a score was examined and how small a look-ahead the examination finds; None for a score without
    one."""
    trust, caught = result.trust, result.probes.get("smallest_caught")
    if trust is None or trust.probe is None or caught is None:
        return None
    found = f"a look-ahead worth {caught:.2g} nats a token shows 99 times in 100"
    return f"{trust.probe}: {trust.probe_rows} with another future, {found}"
