"""Prints or writes a run for `overnight status, log, diff, best, export`, from the read model alone."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from researcher.decision.machine_speed import speed_text
from researcher.errors import ResearcherError
from researcher.files import write_whole
from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment, PaidCall
from researcher.proposers.escalation import belongs_to
from researcher.report.proposer_stats import proposers_text
from researcher.report.results_table import ResultsTable
from researcher.report.snapshot import Report, snapshot
from researcher.report.view import RunReport
from researcher.repository.repository import EDITABLE, Workspace
from services.machine.state import State
from services.machine.subject import repository_of
from services.views.client import ClientError, open_bus
from services.views.render import (
    Scene,
    confirmation_text,
    draw,
    experiments_table,
    gap_text,
    heldout_text,
    proposers_table,
)
from trainer.jobs import RedisClient, TrialResult

BUNDLE = "subject.bundle"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class NothingToShow(ResearcherError):
    """The run has no such result yet; the message says what is missing."""


def show_status(state: State, console: Console, *, as_json: bool) -> None:
    """Print the state of the run; the live part only if Redis answers."""
    with _history(state) as history:
        report = _snapshot(history, state, _bus(state))
    age_s = _age_s(_begun(report))
    if as_json:
        print(json.dumps(report.to_json() | {"options": state.settings()}))
        return
    console.print(draw(Scene(report, None, age_s, "")))
    if options := state.settings():
        console.print(
            "options  " + " ".join(f"{key}={value}" for key, value in sorted(options.items())),
            style="dim",
            soft_wrap=True,
        )
    if report.rates:
        console.print(proposers_table(report.rates))


def show_log(state: State, number: int | None, console: Console) -> None:
    """Print all experiments as a table, or everything about one."""
    with _history(state) as history:
        if number is None:
            console.print(experiments_table(list(_begun(_snapshot(history, state)).rows)))
        else:
            _print_experiment(history, _begun(_snapshot(history, state)), history.numbered(number), state, console)


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
            console.print("nothing has beaten the baseline yet")
            return
        mean = f"{fmean(report.incumbent_scores):.6f} over {len(report.incumbent_scores)} seeds"
        confirmed = report.run.incumbent == report.run.confirmed
        console.print(f"{mean}, {'confirmed' if confirmed else 'provisional: no claim was made for it yet'}")
        if unseen := heldout_text(report):
            console.print(unseen)
        _print_diff(state, report.rows[0].experiment, head.experiment, console)


def export(state: State, to: Path, console: Console) -> None:
    """Write results.tsv and .json, proposers.tsv, progress.png, the best train.py and the subject's history into a
    folder."""
    from researcher.report.picture import draw as draw_picture  # noqa: PLC0415 - matplotlib is slow to import

    with _history(state) as history:
        report = _snapshot(history, state)
        run_report = _begun(report)
        to.mkdir(parents=True, exist_ok=True)
        write_whole(to / "results.tsv", ResultsTable(history).text().encode())
        write_whole(to / "results.json", json.dumps(report.rows_json(), indent=1).encode())
        write_whole(to / "proposers.tsv", proposers_text(report.rates).encode())
        write_whole(to / "progress.png", draw_picture(run_report))
        if run_report.run.incumbent is not None:
            write_whole(to / EDITABLE, history.source(run_report.run.incumbent).encode())
    workspace = Workspace(repository_of(state), script=state.require_run().script)
    try:
        workspace.bundle(run_report.run.branch, to / BUNDLE)
    finally:
        workspace.close()
    console.print(f"written to {to.resolve()}", soft_wrap=True)


def _history(state: State) -> JournalReader:
    state.require_run()
    return JournalReader(state.journal)


def _bus(state: State) -> RedisClient | None:
    """Connect to the run's Redis; None if its address is unknown."""
    try:
        return open_bus(state)
    except ClientError:
        return None


def _snapshot(history: JournalReader, state: State, bus: RedisClient | None = None) -> Report:
    return snapshot(history, bus, state.require_run().trial_profile(), time.time())


def _begun(report: Report) -> RunReport:
    if report.run_report is None:
        raise NothingToShow("no run has started yet")
    return report.run_report


def _age_s(report: RunReport) -> float:
    """Return the seconds from the run's start to the last event of an experiment."""
    last = report.rows[-1].experiment
    return (last.decided_at or last.proposed_at) - report.run.created_at


def _print_diff(state: State, old: Experiment, new: Experiment, console: Console) -> None:
    assert old.commit_sha is not None
    assert new.commit_sha is not None
    workspace = Workspace(repository_of(state), script=state.require_run().script)
    try:
        text = workspace.diff(old.commit_sha, new.commit_sha)
        if console.is_terminal:
            console.print(Syntax(harmless(text), "diff", background_color="default", word_wrap=True))
        else:
            _write_out(f"{text}\n")
    finally:
        workspace.close()


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
    console.print(f"why       {experiment.hypothesis}")
    console.print(f"decision  {experiment.decision or experiment.state}: {experiment.reason or ''}")
    if (compared := report.heldout.keeps.get(experiment.id)) is not None:
        gains = f"gain {compared.heldout_gain:+.6f} where it is {compared.val_gain:+.6f} on val"
        console.print(f"held out  {gains}; {gap_text(compared)}")
    for confirmation in report.decided_confirmations(experiment):
        console.print(confirmation_text(report, confirmation))
    if experiment.cost is not None:
        cost = experiment.cost
        console.print(f"LLM       {cost.model}: {cost.calls} calls, {cost.seconds:.1f} s, {cost.answer_tokens} tokens")
    for call in report.paid:
        if belongs_to(call, experiment):
            console.print(f"stronger  {call_text(call)}")
    for item in history.trials(experiment=experiment.id):
        score = "no score yet" if item.val_bpb is None else f"val_bpb {item.val_bpb:.6f}"
        score += "" if item.heldout_bpb is None else f", held out {item.heldout_bpb:.6f}"
        score += "" if item.unseen_bpb is None else f", unseen {item.unseen_bpb:.6f}"
        console.print(f"trial {item.number}   {item.kind}, seed {item.seed}: {item.outcome or 'queued'}, {score}")
        if (machine := speed_text(item)) is not None:
            console.print(f"          {machine}")
        result = history.result(item.id)
        if result is not None and result.layers:
            console.print(f"          behind {', '.join(result.layers)}")
        if result is not None and (looked := closer_look(result)) is not None:
            console.print(f"          {looked}")
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
