"""The live view: a run on a terminal, as rich renderables made from the read model. Pure: it fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from researcher.decision.heldout import HeldOutGain
from researcher.journal.records import Confirmation, ConfirmationVerdict
from researcher.proposers.escalation import spent
from researcher.report.proposer_stats import Rates
from researcher.report.results_table import NO_NUMBER, cell
from researcher.report.snapshot import Report
from researcher.report.view import LiveStatus, Row, RunReport, tally_text, waiting
from trainer.jobs import Status, StatusKind, WorkerStatus

ROWS = 10
STYLES = {"keep": "green", "discard": "dim", "crash": "red", "rejected": "yellow", "unanswered": "yellow"}
LABELS = {"llm": "LLM", "dry_runs": "dry runs", "subject": "git"}
AT_REST = "not running; `overnight run` goes on with it"


@dataclass(frozen=True)
class Scene:
    """The content of the view: a report, the number of experiments to reach, if any, and `foot` as the last line."""

    report: Report
    goal: int | None
    elapsed_s: float
    foot: str


def draw(scene: Scene) -> RenderableType:
    """Draw one screen."""
    report, run_report = scene.report, scene.report.run_report
    title = "Overnight" if run_report is None else f"Overnight {run_report.run.tag} · {run_report.run.profile}"
    parts: list[RenderableType] = [Text(f"ALARM {report.alarm}", style="bold red")] if report.alarm else []
    parts.append(_now(report))
    if report.unreadable is not None:
        parts.append(Text(report.unreadable, style="yellow"))
    if run_report is not None:
        counts = _counts(run_report, scene.goal)
        parts += [_standing(run_report), counts, _last(run_report), *_requests(run_report)]
    parts += [Text(f"no range  {name}: {fault}", style="yellow") for name, fault in report.range_faults.items()]
    if report.live is not None:
        parts += [_worker(worker) for worker in report.live.workers]
        parts += [Text(line, style="yellow") for line in _notes(report.live)]
    if scene.foot:
        parts.append(Text(scene.foot, style="dim"))
    return Panel(Group(*parts), title=title, subtitle=clock_text(scene.elapsed_s), title_align="left")


def _now(report: Report) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    now, run_report = report.live, report.run_report
    if now is None or now.trial is None or run_report is None:
        line.add_row(Text("now ", style="bold"), Text(now.doing if now else _at_rest(run_report)))
        return line
    running = next((row for row in reversed(run_report.rows) if row.status in ("committed", "measuring")), None)
    name = running.experiment.title if running else now.trial
    progress = now.progress
    figures = [progress.phase if progress else "queued"]
    if progress and progress.step is not None:
        figures.append(f"step {progress.step}")
    if progress and progress.loss is not None:
        figures.append(f"loss {progress.loss:.4f}")
    line.add_row(
        Text("now ", style="bold"),
        Text(name, overflow="ellipsis", no_wrap=True),
        ProgressBar(total=1.0, completed=progress.progress if progress else 0.0, width=24),
        Text(" · ".join(figures)),
    )
    return line


def _worker(worker: WorkerStatus) -> Text:
    """Return a worker's status as text, highlighted if the worker is paused or its candidates have no user of their
    own."""
    fits = "" if worker.profile is None else f" ({worker.profile})"
    trial = "" if worker.trial is None else f" {worker.trial}"
    text = f"worker    {worker.worker}{fits}: {worker.status}{trial}"
    if worker.no_user is not None:
        text += f"; candidates run as root, without its rights: {worker.no_user}"
    is_usual = worker.status.kind is StatusKind.WORKING and worker.no_user is None
    return Text(text, style="" if is_usual else "yellow")


def _notes(live: LiveStatus) -> Iterator[str]:
    """Yield the notes beside the run: of services that it can do without, and of foreign jobs."""
    for source, words in live.notes.items():
        yield f"{LABELS[source]:<4} {words}"
    if live.foreign:
        yield f"jobs {live.foreign}"


def _at_rest(report: RunReport | None) -> str:
    ended = None if report is None else report.run.ended
    return AT_REST if ended is None else str(Status(StatusKind.ENDED, ended))


def _standing(report: RunReport) -> Text:
    if report.gain is None:
        done = len(report.baseline_scores)
        return Text(f"baseline  {done} of its repeats measured")
    sigma = NO_NUMBER if report.sigma is None else f"{report.sigma:.4f}"
    text = Text(f"baseline  {report.gain.baseline:.6f} over {len(report.baseline_scores)} seeds, σ {sigma}\n")
    best = report.incumbent
    if best is not None and not best.experiment.is_baseline:
        scores = report.incumbent_scores
        value = f"{fmean(scores):.6f}" + (f" over {len(scores)} seeds" if len(scores) > 1 else "")
        text.append(f"best      {value} {best.note}: {best.experiment.title}\n", style="green")
    text.append(gain_text(report), style="bold")
    if unseen := heldout_text(report):
        text.append(f"\n{unseen}")
    rolled_back = next((each for each in reversed(report.confirmations) if each.rolled_back), None)
    if rolled_back is not None and (head := report.row(rolled_back.head)) is not None:
        text.append(f"\nfell      experiment {head.experiment.number}: {rolled_back.reason}", style="yellow")
    return text


def gain_text(report: RunReport) -> str:
    """Return the confirmed gain, and beside it the provisional gain."""
    if report.gain is None:
        return ""
    claim = "none confirmed yet" if report.gain.confirmed is None else f"{report.gain.confirmed:.6f} confirmed"
    more = "" if report.gain.provisional is None else f", {report.gain.provisional:+.6f} provisional (not yet a claim)"
    return f"gain      {claim}{more}"


def heldout_text(report: RunReport) -> str:
    """Return the gains on held-out text, and the gap of the best version beside the baseline's; empty without such
    scores."""
    confirmed, best = report.heldout.confirmed, report.heldout.keeps.get(report.run.incumbent or 0)
    gains = [] if confirmed is None else [f"{confirmed:.6f} confirmed"]
    if best is not None and report.run.incumbent != report.run.confirmed:
        gains.append(f"{best.heldout_gain:+.6f} provisional")
    parts = [", ".join(gains)] if gains else []
    parts += [] if best is None else [gap_text(best)]
    return f"held out  {'; '.join(parts)}" if parts else ""


def gap_text(compared: HeldOutGain) -> str:
    """Return the scores of a version on both texts, and their difference beside that of the baseline."""
    code, base = compared.code, compared.base
    return (
        f"val {code.val:.6f} is {code.heldout:.6f} there: a gap of {code.gap:+.6f}, the baseline's is {base.gap:+.6f}"
    )


def confirmation_text(report: RunReport, confirmation: Confirmation) -> str:
    """Return a decided confirmation as one line."""
    claimed = _claimed_text(report, confirmation)
    return f"{confirmation.kind.words}     {confirmation.verdict}: {confirmation.reason}{claimed}"


def _claimed_text(report: RunReport, confirmation: Confirmation) -> str:
    """Return the gain of a claim's fresh seeds on held-out text and on unseen text."""
    claimed = report.heldout.claims.get(confirmation.id)
    held_out = "" if claimed is None else f"; held out {claimed.heldout_gain:+.6f}"
    if confirmation.unseen_gain is not None:
        return f"{held_out}; unseen {confirmation.unseen_gain:+.6f}"
    is_confirmed = confirmation.verdict is ConfirmationVerdict.CONFIRMED
    return f"{held_out}; not scored on unseen text" if is_confirmed else held_out


def _counts(report: RunReport, goal: int | None) -> Text:
    of_goal = "" if goal is None else f" of {goal}"
    text = Text(f"measured  {report.measured}{of_goal}: ")
    text.append(tally_text(report))
    if report.seconds_each is not None:
        text.append(f" · {report.seconds_each:.0f} s each")
        if goal is not None and goal > report.measured:
            text.append(f", about {clock_text((goal - report.measured) * report.seconds_each)} to go")
    text.append(f"\ncost      {cost_text(report)}")
    if report.paid:
        text.append(f"\nstronger  {paid_text(report)}")
    return text


def paid_text(report: RunReport) -> str:
    """Return the spent part of the stronger model's limit, and the time and reason of its last call."""
    last = report.paid[-1]
    row, calls = report.row(last.after), len(report.paid)
    number = "?" if row is None else row.experiment.number
    fault = "" if last.fault is None else f": {last.fault}"
    return (
        f"{last.model}: {spent(report.paid):.4f} of {last.cap:g} spent in {calls} call{'s' if calls > 1 else ''}, "
        f"the last after experiment {number}, because of {last.why}{fault}"
    )


def cost_text(report: RunReport) -> str:
    """Return the seconds, tokens and money of the run, as far as they are known."""
    cost = report.cost
    parts = [f"{clock_text(cost.trial_s)} of trials"]
    if cost.llm_tokens or cost.llm_s:
        parts.append(f"LLM {clock_text(cost.llm_s)}, {cost.llm_tokens:,} tokens")
    if cost.money is not None:
        parts.append(f"{cost.money:.2f} money")
    return ", ".join(parts)


def _last(report: RunReport) -> Table:
    return experiments_table([row for row in report.rows if not row.experiment.is_baseline][-ROWS:])


def experiments_table(rows: list[Row]) -> Table:
    """Return a table with one line for each experiment."""
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("val_bpb", justify="right", no_wrap=True)
    table.add_column("by", no_wrap=True)
    table.add_column("what", ratio=2, no_wrap=True, overflow="ellipsis")
    table.add_column("why", ratio=3, no_wrap=True, overflow="ellipsis")
    for row in rows:
        mark = " ✓" if row.confirmed and not row.experiment.is_baseline else " ↩" if row.rolled_back else ""
        table.add_row(
            cell(row, "number"),
            cell(row, "status") + mark,
            cell(row, "val_bpb", ".6f"),
            cell(row, "proposer", none=""),
            cell(row, "title"),
            cell(row, "note" if row.rolled_back else "reason", none=""),
            style=STYLES.get(row.status, ""),
        )
    return table


def proposers_table(rates: Sequence[Rates]) -> Table:
    """Return a table with one column for each proposer, so that a narrow terminal shows whole figures. The live view
    omits it."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("by", style="dim", no_wrap=True)
    for each in rates:
        table.add_column(each.proposer, justify="right", no_wrap=True)
    costs = [each.cost for each in rates]
    table.add_row("tries", *(str(each.tries) for each in rates))
    table.add_row("rejected", *(str(each.rejected) for each in rates))
    if any(each.unanswered for each in rates):
        table.add_row("unanswered", *(str(each.unanswered) for each in rates))
    table.add_row("crashed", *(str(each.crashed) for each in rates))
    table.add_row("kept", *(str(each.kept) for each in rates))
    table.add_row("confirmed", *(str(each.confirmed) for each in rates))
    table.add_row("gain", *(_number(each.gain) for each in rates))
    table.add_row("a trial", *(_number(each.gain_per_trial) for each in rates))
    table.add_row("an hour", *(_number(each.gain_per_hour) for each in rates))
    if any(cost.llm_s or cost.llm_tokens for cost in costs):
        table.add_row("LLM", *(clock_text(cost.llm_s) for cost in costs))
        table.add_row("tokens", *(f"{cost.llm_tokens:,}" for cost in costs))
    if any(cost.money is not None for cost in costs):
        table.add_row("money", *(NO_NUMBER if cost.money is None else f"{cost.money:.2f}" for cost in costs))
    return table


def _requests(report: RunReport) -> list[RenderableType]:
    first_lines = [(request.kind, request.body.partition("\n")[0][:100]) for request in waiting(report)]
    return [Text(f"waits     {kind}: {line}" if line else f"waits     {kind}") for kind, line in first_lines]


def _number(value: float | None) -> str:
    return NO_NUMBER if value is None else f"{value:.6f}"


def clock_text(seconds: float) -> str:
    """Return a duration in seconds as 1:02:03, 2:03 or 3 s."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
