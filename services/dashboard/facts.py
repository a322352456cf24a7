"""The first screen in words: whether the run is alive, how much better it is, what runs now, what it cost, and what is
wrong. Pure functions of the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from researcher.decision.goal import moment_text
from researcher.report.document import RunState
from researcher.report.snapshot import Report
from researcher.report.view import Row, RunReport, headline, size_text
from services.views.render import LABELS, clock_text, span_text
from trainer.jobs import Status, StatusKind, WorkerStatus

STATES = {
    RunState.STARTING: ("wait", "Starting"),
    RunState.RUNNING: ("good", "Running"),
    RunState.PAUSING: ("wait", "Pausing"),
    RunState.PAUSED: ("wait", "Paused"),
    RunState.ENDED: ("calm", "Ended"),
    RunState.REFUSED: ("bad", "Refused"),
    RunState.STOPPED: ("wait", "Stopped"),
    RunState.UNKNOWN: ("bad", "Not reachable"),
}
GO_ON = "The run goes on with `overnight run`, in containers with `scripts/up`."


@dataclass(frozen=True)
class Alive:
    """Whether the run is alive. `tone` is good, wait, calm or bad, and the template colours it."""

    tone: str
    state: str
    detail: str


@dataclass(frozen=True)
class Better:
    """How much better the best version is. `mark` is confirmed or provisional, and empty without a gain.

    `sentence` is the report's headline; where that begins with the figure, only the rest.
    """

    figure: str
    mark: str
    sentence: str
    best: str
    best_number: int | None


@dataclass(frozen=True)
class Now:
    """What runs now. `share` is 0..1 of the trial's budget, or None while no trial runs."""

    title: str
    number: int | None
    share: float | None
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Tally:
    """How far the run is, and what it cost. `share` is 0..1 of the limit of experiments, or None without one."""

    measured: str
    share: float | None
    counts: str
    time: str
    cost: str
    cost_detail: str


@dataclass(frozen=True)
class Trouble:
    """One fault (`tone` bad), something to do (wait), or a part that the run does without (note)."""

    tone: str
    text: str


@dataclass(frozen=True)
class Facts:
    """The five facts of the first screen."""

    alive: Alive
    better: Better | None
    now: Now
    tally: Tally | None
    troubles: tuple[Trouble, ...]


def facts_of(report: Report) -> Facts:
    """Return the first screen of a report."""
    found = report.run_report
    return Facts(
        alive=_alive(report),
        better=None if found is None else _better(found),
        now=_now(report),
        tally=None if found is None else _tally(report, found),
        troubles=tuple(_troubles(report)),
    )


def _alive(report: Report) -> Alive:
    tone, state = STATES[report.state]
    if report.alarm is not None and tone == "good":
        tone, state = "bad", "Stalled"
    times = report.times
    if times is None:
        return Alive(tone, state, "")
    if times.ended_at is not None and not report.goes_on:
        return Alive(tone, state, f"since {moment_text(times.ended_at)}, after {span_text(times.running_s)}")
    if not report.goes_on:
        return Alive(tone, state, f"after {span_text(times.running_s)}")
    end = "" if times.ends_at is None else f", ends about {moment_text(times.ends_at)}"
    return Alive(tone, state, f"for {span_text(times.running_s)}{end}")


def _better(found: RunReport) -> Better:
    gain, best = found.gain, found.incumbent
    is_new = best is not None and not best.experiment.is_baseline
    title = f"{best.experiment.title} ({best.note})" if best is not None and is_new else ""
    number = best.experiment.number if best is not None and is_new else None
    if gain is None:
        return Better("…", "", headline(found), "", None)
    if gain.confirmed is not None:
        size = size_text(found, gain.confirmed)
        return Better(size, "confirmed", headline(found).removeprefix(f"{size} "), title, number)
    if gain.provisional is not None and gain.provisional > 0:
        return Better(size_text(found, gain.provisional), "provisional", headline(found), title, number)
    return Better("0 %", "", headline(found), title, number)


def running_row(found: RunReport) -> Row | None:
    """Return the experiment that is being measured, or None."""
    return next((row for row in reversed(found.rows) if row.status in ("committed", "measuring")), None)


def _now(report: Report) -> Now:
    found, live = report.run_report, report.live
    if found is None or live is None or live.trial is None:
        at_rest = None if found is None or found.run.ended is None else str(Status(StatusKind.ENDED, found.run.ended))
        return Now(at_rest or report.doing, None, None, ())
    row, progress = running_row(found), live.progress
    title, number = (live.doing, None) if row is None else (row.experiment.title, row.experiment.number)
    if progress is None:
        return Now(title, number, 0.0, ("queued",))
    figures = [progress.phase, f"{100 * progress.progress:.0f} %"]
    figures += [] if progress.step is None else [f"step {progress.step:,}"]
    figures += [] if progress.loss is None else [f"loss {progress.loss:.4f}"]
    return Now(title, number, min(max(progress.progress, 0.0), 1.0), tuple(figures))


def _tally(report: Report, found: RunReport) -> Tally:
    goal, cost, tally = found.run.goal, found.cost, found.tally
    failed = sum(
        count for name, count in tally.items() if name not in ("keep", "discard", "infrastructure", "repeated")
    )
    counts = f"{tally['keep']} kept, {tally['discard']} discarded" + (f", {failed} failed" if failed else "")
    each = "" if found.seconds_each is None else f"{span_text(found.seconds_each)} each"
    spent = f"{clock_text(cost.trial_s)} of trials"
    spent += f", {clock_text(cost.llm_s)} of LLM" if cost.llm_s else ""
    limit = "" if goal.max_cost is None else f" of {goal.max_cost:g}"
    return Tally(
        measured=f"{found.measured}" + ("" if goal.experiments is None else f" of {goal.experiments}"),
        share=None if not goal.experiments else min(1.0, found.measured / goal.experiments),
        counts=counts,
        time=each,
        cost=f"{cost.money:.2f}{limit}" if cost.money is not None else clock_text(cost.trial_s),
        cost_detail=spent if cost.money is not None else "of trials; no price is set",
    )


def useful_share(found: RunReport) -> float | None:
    """Return the share of the measured experiments that have a score, or None before the first."""
    scored = sum(row.experiment.was_measured and row.experiment.score is not None for row in found.rows)
    return scored / found.measured if found.measured else None


def _troubles(report: Report) -> Iterator[Trouble]:
    """Yield what is wrong, the worst first."""
    if report.alarm is not None:
        yield Trouble("bad", report.alarm)
    if report.unreadable is not None:
        yield Trouble("bad", report.unreadable)
    live = report.live
    if live is not None and not live.answers:
        yield Trouble("bad", live.silent)
    if report.state is RunState.STOPPED and report.alarm is None:
        yield Trouble("wait", f"No researcher is at work. {GO_ON}")
    if report.state is RunState.REFUSED:
        yield Trouble("bad", f"{report.doing}. {GO_ON}")
    if report.run_report is not None and report.run_report.run.paused_by_user:
        yield Trouble("wait", "A user paused the run. Resume it on the page Steer, or with `overnight resume`.")
    if live is not None:
        yield from (Trouble("note", f"{LABELS[source]}: {text}") for source, text in live.notes.items())
        yield from (Trouble("bad", text) for text in map(_worker_fault, live.workers) if text)
        if live.foreign:
            yield Trouble("bad", live.foreign)
    for name, fault in report.range_faults.items():
        yield Trouble("wait", f"The optimiser cannot use {name}: {fault}")


def _worker_fault(worker: WorkerStatus) -> str:
    if worker.no_user is not None:
        return f"{worker.worker}: candidates run as root, without its rights: {worker.no_user}"
    return "" if worker.status.kind is StatusKind.WORKING else f"{worker.worker} is {worker.status}"
