"""The live view: a run on a terminal, as rich renderables made from the read model. Pure: it fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from researcher.decision.goal import moment_text
from researcher.decision.heldout import HeldOutGain
from researcher.journal.records import Confirmation, ConfirmationVerdict
from researcher.proposers.escalation import spent
from researcher.report.document import RunState, Times
from researcher.report.proposer_stats import Rates
from researcher.report.results_table import NO_NUMBER, cell
from researcher.report.snapshot import Report
from researcher.report.view import LiveStatus, Row, RunReport, headline, tally_text, waiting
from trainer.jobs import BITS_PER_BYTE, Status, StatusKind, WorkerStatus

ROWS = 10
LABEL = 10  # columns
STYLES = {"keep": "green", "discard": "dim", "crash": "red", "rejected": "yellow", "unanswered": "yellow"}
LABELS = {"llm": "LLM", "dry_runs": "dry runs", "subject": "git", "backup": "backup"}
PAUSING = "pausing after this trial; `overnight resume` goes on"
AT_REST = "not running; `overnight run` goes on with it"


@dataclass(frozen=True)
class Scene:
    """The content of the view: a report, `foot` as the last line, and all figures if it is `verbose`."""

    report: Report
    foot: str = ""
    verbose: bool = False


def draw(scene: Scene) -> RenderableType:
    """Draw one screen."""
    report, run_report = scene.report, scene.report.run_report
    title = "Overnight" if run_report is None else f"Overnight {run_report.run.tag} · {run_report.run.profile}"
    parts: list[RenderableType] = [Text(f"ALARM {report.alarm}", style="bold red")] if report.alarm else []
    parts.append(_now(report))
    if report.state is RunState.PAUSING:
        parts.append(Text(PAUSING, style="yellow"))
    if report.unreadable is not None:
        parts.append(Text(report.unreadable, style="yellow"))
    if run_report is not None:
        parts += [_hung(line) for line in _standing(report, run_report)]
        parts += figures(report, run_report) if scene.verbose else []
        parts += [*_last(run_report), *_requests(run_report)]
    parts += [_hung(Text(f"no range  {name}: {fault}", style="yellow")) for name, fault in report.range_faults.items()]
    if report.live is not None:
        parts += [_hung(_worker(worker)) for worker in report.live.workers]
        parts += [_hung(Text(line, style="yellow")) for line in _notes(report.live)]
    if scene.foot:
        parts.append(Text(scene.foot, style="dim"))
    return Panel(Group(*parts), title=title, title_align="left")


def print_line(console: Console, line: str) -> None:
    """Print a line that begins with a label: on a terminal in its width, in a pipe or a file without a break."""
    if console.is_terminal:
        console.print(_hung(Text(line)))
    else:
        console.print(line, soft_wrap=True)


def _hung(line: Text) -> Table:
    """Return a line as a label and its text, so that a narrow terminal continues the text below itself."""
    table = Table.grid()
    table.add_column(width=LABEL, no_wrap=True)
    table.add_column()
    table.add_row(*line.divide([LABEL]))
    return table


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
    for source, text in live.notes.items():
        yield f"{LABELS[source]:<{LABEL}}{text}"
    if live.foreign:
        yield f"{'jobs':<{LABEL}}{live.foreign}"


def _at_rest(report: RunReport | None) -> str:
    ended = None if report is None else report.run.ended
    return AT_REST if ended is None else str(Status(StatusKind.ENDED, ended))


def _standing(report: Report, run_report: RunReport) -> Iterator[Text]:
    yield Text(f"result    {headline(run_report)}", style="bold")
    best, closest = run_report.incumbent, run_report.closest
    if best is not None and not best.experiment.is_baseline:
        item = best.experiment
        yield Text(f"best      experiment {item.number} ({best.note}): {item.title}", style="green")
    elif closest is not None and closest.delta is not None:
        yield Text(f"closest   {closest_text(closest)}")
    yield from map(Text, standing_lines(report, run_report))


def standing_lines(report: Report, run_report: RunReport) -> Iterator[str]:
    """Yield the lines about time, counts and money."""
    if report.times is not None:
        yield f"time      {times_text(report.times, goes_on=report.goes_on)}"
    goal = run_report.run.goal.experiments
    number = f"{run_report.measured}{'' if goal is None else f' of {goal}'}"
    counts = f"{number} experiment{'' if number == '1' else 's'}: {tally_text(run_report)}"
    each = "" if run_report.seconds_each is None else f", {span_text(run_report.seconds_each)} each"
    yield f"measured  {counts}{each}"
    if run_report.cost.money is not None:
        yield f"spent     {run_report.cost.money:.2f} since the first start"
    if run_report.paid:
        yield f"stronger  {paid_text(run_report)}"
    if untried := [request for request in waiting(run_report) if request.kind == "idea"]:
        yield f"ideas     {len(untried)} not tried yet; an LLM turns them into code"


def closest_text(row: Row) -> str:
    """Return the experiment that came closest to the best version."""
    return f"experiment {row.experiment.number}, worse by {row.delta or 0.0:.6f}: {row.experiment.title}"


def times_text(times: Times, *, goes_on: bool) -> str:
    """Return start, duration and end of a run as wall time."""
    text = f"started {moment_text(times.started_at)}, {'running' if goes_on else 'ran'} {span_text(times.running_s)}"
    if times.ended_at is not None:
        return f"{text}, ended {moment_text(times.ended_at)}"
    return text if times.ends_at is None else f"{text}, ends about {moment_text(times.ends_at)}, confirmation included"


def figures(report: Report, run_report: RunReport) -> list[RenderableType]:
    """Return the lines with all figures, each with what it is compared with, and the proposers' table."""
    if run_report.gain is None:
        return []
    sigma = NO_NUMBER if run_report.sigma is None else f"{run_report.sigma:.4f}"
    metric, seeds = run_report.run.metric, len(run_report.baseline_scores)
    lines = [
        f"metric    {metric.name} ({metric.explained(run_report.run.degree)})",
        f"baseline  {metric.text(run_report.gain.baseline)}, mean of {seeds} seeds, σ {sigma}",
    ]
    scores = run_report.incumbent_scores
    if (best := run_report.incumbent) is not None and not best.experiment.is_baseline:
        lines.append(
            f"best      {metric.text(fmean(scores))}, mean of {len(scores)} seed{'s' if len(scores) > 1 else ''}"
        )
    lines.append(gain_text(run_report))
    if unseen := heldout_text(run_report):
        lines.append(unseen)
    rolled_back = next((each for each in reversed(run_report.confirmations) if each.rolled_back), None)
    if rolled_back is not None and (head := run_report.row(rolled_back.head)) is not None:
        name = f"experiment {head.experiment.number}"
        lines.append(f"fell      {name}: {(rolled_back.reason or '').removeprefix(f'{name} ')}")
    lines.append(f"cost      {cost_text(run_report)}")
    return [*(_hung(Text(line)) for line in lines), *([proposers_table(report.rates)] if report.rates else [])]


def gain_text(report: RunReport) -> str:
    """Return the confirmed gain, and beside it the provisional gain."""
    if report.gain is None:
        return ""
    gain = report.gain
    claim = "none confirmed" if gain.confirmed is None else f"{gain.confirmed:.6f} confirmed by fresh seeds"
    more = "" if gain.provisional is None else f", {gain.provisional:+.6f} over the baseline's mean, not measured again"
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
        f"score {code.heldout:.6f} there and {code.val:.6f} on val: a gap of {code.gap:+.6f}, "
        f"the baseline's is {base.gap:+.6f}"
    )


def confirmation_text(report: RunReport, confirmation: Confirmation) -> str:
    """Return a decided confirmation as one line."""
    claimed = _claimed_text(report, confirmation)
    verdict = "" if confirmation.verdict is None else confirmation.verdict.words
    return f"{confirmation.kind.words}     {verdict}: {confirmation.reason}{claimed}"


def _claimed_text(report: RunReport, confirmation: Confirmation) -> str:
    """Return the gain of a claim's fresh seeds on held-out text and on unseen text."""
    claimed = report.heldout.claims.get(confirmation.id)
    held_out = "" if claimed is None else f"; held out {claimed.heldout_gain:+.6f}"
    if confirmation.unseen_gain is not None:
        return f"{held_out}; unseen {confirmation.unseen_gain:+.6f}"
    is_confirmed = confirmation.verdict is ConfirmationVerdict.CONFIRMED and report.run.metric == BITS_PER_BYTE
    return f"{held_out}; not scored on unseen text" if is_confirmed else held_out


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


def _last(report: RunReport) -> list[Table]:
    rows = [row for row in report.rows if not row.experiment.is_baseline][-ROWS:]
    return [experiments_table(rows)] if rows else []


def experiments_table(rows: Sequence[Row], *, whole: bool = False) -> Table:
    """Return a table with one line for each experiment. A `whole` one cuts no title, however long."""
    table = Table(box=None, pad_edge=False, expand=not whole, header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column(rows[0].metric.name if rows else "value", justify="right", no_wrap=True)
    table.add_column("Δ best", justify="right", no_wrap=True)
    table.add_column("what", ratio=1, no_wrap=True, overflow="ignore" if whole else "ellipsis")
    table.add_column("by", no_wrap=True)
    for row in rows:
        mark = " ✓" if row.confirmed and not row.experiment.is_baseline else " ↩" if row.rolled_back else ""
        table.add_row(
            cell(row, "number"),
            (row.note if row.status == "crash" else row.status) + mark,
            cell(row, "value", ".6f"),
            cell(row, "delta", "+.4f", none=""),
            " ".join(row.experiment.title.split()) if whole else row.experiment.title,
            cell(row, "proposer", none=""),
            style=STYLES.get(row.status, ""),
        )
    return table


def proposers_text(rates: Sequence[Rates]) -> str:
    """Return each proposer's tries and keeps in one line."""
    each = (f"{rate.proposer} {rate.tries} tried, {rate.kept} kept, {rate.confirmed} confirmed" for rate in rates)
    return f"by        {'; '.join(each)}"


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
    table.add_row("gain/trial", *(_number(each.gain_per_trial) for each in rates))
    table.add_row("gain/hour", *(_number(each.gain_per_hour) for each in rates))
    if any(cost.llm_s or cost.llm_tokens for cost in costs):
        table.add_row("LLM", *(clock_text(cost.llm_s) for cost in costs))
        table.add_row("tokens", *(f"{cost.llm_tokens:,}" for cost in costs))
    if any(cost.money is not None for cost in costs):
        table.add_row("money", *(NO_NUMBER if cost.money is None else f"{cost.money:.2f}" for cost in costs))
    return table


def _requests(report: RunReport) -> list[RenderableType]:
    first_lines = [(request.kind, request.body.partition("\n")[0][:100]) for request in waiting(report)]
    return [_hung(Text(f"waits     {kind}: {line}" if line else f"waits     {kind}")) for kind, line in first_lines]


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


def span_text(seconds: float) -> str:
    """Return a duration in seconds as 3 h 12 min, 12 min, or 40 s."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
