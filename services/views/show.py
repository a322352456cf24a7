"""Showing a run: what `overnight status, log, diff, best, export` print or write, from the read model alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import redis
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from researcher.decision.heldout import HeldOutGain
from researcher.decision.machine_speed import told
from researcher.errors import ResearcherError
from researcher.files import write_whole
from researcher.journal.reader import JournalReader
from researcher.journal.records import Confirmation, Experiment, PaidCall
from researcher.proposers.escalation import belongs_to
from researcher.report.proposer_stats import Rates, proposers_text, rates_of
from researcher.report.results_table import ResultsTable
from researcher.report.stall_alarm import alarm
from researcher.report.view import LiveStatus, Row, RunReport, build_report, now
from researcher.repository.repository import EDITABLE, Workspace
from services.machine.state import State
from services.machine.subject import repository_of
from services.views.client import DoorError, open_bus
from services.views.render import Scene, claimed_text, draw, experiments_table, gap_text, heldout_text, proposers_table
from trainer.jobs import TrialResult

BUNDLE = "subject.bundle"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class NothingToShow(ResearcherError):
    """The run has not come so far yet; the message says what is missing."""


def show_status(state: State, console: Console, *, as_json: bool) -> None:
    """How the run stands; what is going on right now only if it answers."""
    with _history(state) as history:
        report = _night(history, state)
        seen = _seen(state, history)
        budget = state.require_night().trial_profile().budget
        worry = alarm(report.run, history.trials(), budget, seen, time.time())
        rates = rates_of(report.run, report.rows, history.scores())
    if as_json:
        print(json.dumps(_status_json(report, seen, worry, rates)))
        return
    console.print(draw(Scene(report, seen, None, age_s(report), "", worry)))
    if rates:
        console.print(proposers_table(rates))


def show_log(state: State, number: int | None, console: Console) -> None:
    """All experiments in a table, or everything about one."""
    with _history(state) as history:
        if number is None:
            console.print(experiments_table(list(_night(history, state).rows)))
        else:
            _tell(history, _night(history, state), history.numbered(number), state, console)


def show_diff(state: State, number: int, console: Console) -> None:
    """What an experiment changed against what it was proposed on."""
    with _history(state) as history:
        experiment = history.numbered(number)
        if experiment.commit_sha is None or experiment.parent is None:
            why = "it is the baseline" if experiment.is_baseline else experiment.reason or experiment.state
            raise NothingToShow(f"experiment {number} changed nothing: {why}")
        _print_diff(state, history.experiment(experiment.parent), experiment, console)


def show_best(state: State, console: Console, *, source: bool) -> None:
    """The best state so far against the baseline, or its train.py and nothing else."""
    with _history(state) as history:
        report = _night(history, state)
        head = report.incumbent
        if head is None:
            raise NothingToShow("the baseline is not measured yet")
        if source:
            print(history.source(head.experiment.id), end="")
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
    """results.tsv and .json, proposers.tsv, progress.png, the best train.py and the subject's history in a folder."""
    from researcher.report.picture import draw as draw_picture  # noqa: PLC0415 - matplotlib is slow to import

    with _history(state) as history:
        report = _night(history, state)
        to.mkdir(parents=True, exist_ok=True)
        write_whole(to / "results.tsv", ResultsTable(history).text().encode())
        write_whole(to / "results.json", json.dumps([_row_json(report, row) for row in report.rows], indent=1).encode())
        rates = rates_of(report.run, report.rows, history.scores())
        write_whole(to / "proposers.tsv", proposers_text(rates).encode())
        write_whole(to / "progress.png", draw_picture(report))
        if report.run.incumbent is not None:
            write_whole(to / EDITABLE, history.source(report.run.incumbent).encode())
    workspace = Workspace(repository_of(state))
    try:
        workspace.bundle(report.run.branch, to / BUNDLE)
    finally:
        workspace.close()
    console.print(f"written to {to.resolve()}", soft_wrap=True)


def _history(state: State) -> JournalReader:
    state.require_night()
    return JournalReader(state.journal)


def _seen(state: State, history: JournalReader) -> LiveStatus | None:
    """What is going on; None where nobody can be asked."""
    try:
        return now(history, open_bus(state))
    except DoorError:
        return None
    except redis.RedisError as error:
        silent = f"Redis does not answer ({error}), so what goes on now cannot be told; the rest is from the journal"
        return LiveStatus(silent, None, None, at_work=False)


def _night(history: JournalReader, state: State) -> RunReport:
    report = build_report(history, state.require_night().trial_profile())
    if report is None:
        raise NothingToShow("no run has started yet")
    return report


def age_s(report: RunReport) -> float:
    """Seconds from the run's start to the last thing that happened to an experiment."""
    last = report.rows[-1].experiment
    return (last.decided_at or last.proposed_at) - report.run.created_at


def _print_diff(state: State, old: Experiment, new: Experiment, console: Console) -> None:
    assert old.commit_sha is not None
    assert new.commit_sha is not None
    workspace = Workspace(repository_of(state))
    try:
        text = workspace.diff(old.commit_sha, new.commit_sha)
        if console.is_terminal:
            console.print(Syntax(harmless(text), "diff", background_color="default", word_wrap=True))
        else:
            print(text)
    finally:
        workspace.close()


def harmless(text: str) -> str:
    """For a terminal: a model's source may hold what steers one."""
    return _CONTROL.sub("�", text)


def _tell(history: JournalReader, report: RunReport, experiment: Experiment, state: State, console: Console) -> None:
    name = (f"{experiment.number}  {experiment.title}", "bold")
    console.print(Text.assemble(name, f"  ({experiment.proposer or 'the subject'})"))
    console.print(f"why       {experiment.hypothesis}")
    console.print(f"decision  {experiment.decision or experiment.state}: {experiment.reason or ''}")
    if (compared := report.heldout.keeps.get(experiment.id)) is not None:
        gains = f"gain {compared.heldout_gain:+.6f} where it is {compared.val_gain:+.6f} on val"
        console.print(f"held out  {gains}; {gap_text(compared)}")
    for check in _claims_of(report, experiment):
        console.print(f"{check.kind}     {check.verdict}: {check.reason}{claimed_text(report, check)}")
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
        if (machine := told(item)) is not None:
            console.print(f"          {machine}")
        result = history.result(item.id)
        if result is not None and result.layers:
            console.print(f"          behind {', '.join(result.layers)}")
        if result is not None and (looked := closer_look(result)) is not None:
            console.print(f"          {looked}")
        if result is not None and result.log is not None:
            console.rule(f"log, {result.log.seen_bytes:,} bytes seen")
            path = state.trials / result.log.path
            console.out(path.read_text(errors="replace") if path.exists() else result.log.tail, highlight=False)


def call_text(call: PaidCall) -> str:
    """One question to the stronger model: why, its tokens, its price."""
    tokens = "tokens not known" if call.money is None else f"{call.prompt_tokens} + {call.answer_tokens} tokens"
    price = f"counted with the most it can cost, {call.worst:.4f}" if call.money is None else f"cost {call.money:.4f}"
    return f"asked because of {call.why}: {tokens}, {price}{'' if call.fault is None else f'; {call.fault}'}"


def closer_look(result: TrialResult) -> str | None:
    """How a score was examined, and what that finds; None for one that nobody examined."""
    trust, caught = result.trust, result.probes.get("smallest_caught")
    if trust is None or trust.probe is None or caught is None:
        return None
    found = f"a look-ahead worth {caught:.2g} nats a token shows 99 times in 100"
    return f"{trust.probe}: {trust.probe_rows} with another future, {found}"


def _claims_of(report: RunReport, experiment: Experiment) -> list[Confirmation]:
    """Checks of it that have come to something."""
    return [check for check in report.confirmations if check.head == experiment.id and check.verdict is not None]


def _status_json(
    report: RunReport, seen: LiveStatus | None, worry: str | None, rates: Sequence[Rates]
) -> dict[str, object]:
    return {
        "gain": _gain_json(report),
        "tally": report.tally,
        "proposers": [each.figures() for each in rates],
        "alarm": worry,
        "notes": {} if seen is None else dict(seen.notes),
        "rows": [_row_json(report, row) for row in report.rows],
    }


def _gain_json(report: RunReport) -> dict[str, object] | None:
    return None if report.gain is None else asdict(report.gain) | {"confirmed_heldout": report.heldout.confirmed}


def _row_json(report: RunReport, row: Row) -> dict[str, object]:
    item = row.experiment
    keep = report.heldout.keeps.get(item.id)
    claims = [(check, report.heldout.claims.get(check.id)) for check in _claims_of(report, item)]
    return {
        "number": item.number,
        "status": row.status,
        "confirmed": row.confirmed,
        "rolled_back": row.rolled_back,
        "outcome": item.outcome,
        "note": row.note,
        "val_bpb": item.score,
        "memory_gb": row.memory_gb,
        "commit": item.commit_sha,
        "proposer": item.proposer,
        "title": item.title,
        "hypothesis": item.hypothesis,
        "reason": item.reason,
        "seconds": row.took_s,
        "heldout": None if keep is None else asdict(keep) | _gains_json(keep),
        "claims": [
            {"verdict": check.verdict, "gain": check.gain, "unseen_gain": check.unseen_gain}
            | (_gains_json(compared) if compared is not None else {})
            for check, compared in claims
        ],
    }


def _gains_json(compared: HeldOutGain) -> dict[str, object]:
    return {"val_gain": compared.val_gain, "heldout_gain": compared.heldout_gain}
