"""Shows a run in local mode: the live view on a terminal, the researcher's log lines elsewhere, and the summary at the
end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from researcher.files import write_whole
from researcher.journal.reader import JournalReader
from researcher.report.picture import draw as draw_picture
from researcher.report.snapshot import Report, snapshot
from researcher.report.view import RunReport, headline, waiting
from researcher.repository.publishing import UserRepository
from researcher.repository.worktree import reports_folder
from services.machine.state import State
from services.machine.supervisor import ChildStatus
from services.views.follow import OpenJournal
from services.views.render import (
    Scene,
    closest_text,
    confirmation_text,
    draw,
    experiments_table,
    print_line,
    proposers_text,
    standing_lines,
)
from trainer.jobs import Profile, RedisClient

TRAINER, RESEARCHER, DRY_RUN_WORKER, DASHBOARD = "trainer", "researcher", "dry-run-worker", "dashboard"
REFRESH_S = 0.5
PICTURE = "progress.png"


@dataclass(frozen=True)
class Watched:
    """A run in progress. `poll` keeps its processes alive and returns their states. `page` is the page's address."""

    state: State
    profile: Profile
    bus: RedisClient
    poll: Callable[[], list[ChildStatus]]
    page: str | None = None


def watch(watched: Watched, console: Console) -> int:
    """Show the run until one of its processes ends for good, and return its exit code; 130 after Ctrl-C."""
    try:
        code = _on_terminal(watched, console) if console.is_terminal else _as_lines(watched, console)
    except KeyboardInterrupt:
        console.print("stopping; the running trial is measured again at the next start")
        return 130
    return code


def _on_terminal(watched: Watched, console: Console) -> int:
    with (
        closing(OpenJournal(watched.state.journal)) as journal,
        Live(console=console, refresh_per_second=4, transient=True) as live,
    ):
        while True:
            statuses = watched.poll()
            if (last := _last_word(statuses)) is not None:
                break
            live.update(draw(_scene(watched, journal, statuses)))
            time.sleep(REFRESH_S)
    return _explained(last, watched, console)


def _as_lines(watched: Watched, console: Console) -> int:
    """Print the researcher's own log lines, for a pipe or a file."""
    tail = Tail(watched.state.logs / f"{RESEARCHER}.log")
    while (last := _last_word(watched.poll())) is None:
        tail.print_new(console)
        time.sleep(REFRESH_S)
    tail.print_new(console)
    return _explained(last, watched, console)


def _last_word(statuses: list[ChildStatus]) -> ChildStatus | None:
    """Return the process that ended for good, if any: then the run is over."""
    return next((each for each in statuses if each.pid is None and each.next_try_s is None), None)


def _explained(last: ChildStatus, watched: Watched, console: Console) -> int:
    code = last.last_exit or 0
    if code:
        log = watched.state.logs / f"{last.name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:] if log.exists() else []
        ended = (f"the {last.name} {last.in_words()}", "bold red")
        console.print(Text.assemble(ended, f"; the end of {log}:"), soft_wrap=True)
        console.out("\n".join(lines), highlight=False)
    return code


def _scene(watched: Watched, journal: OpenJournal, statuses: list[ChildStatus]) -> Scene:
    ill = ", ".join(f"{each.name} {each.in_words()}" for each in statuses if each.pid is None)
    parts = [ill, watched.page or "", "Ctrl-C stops cleanly, the same command goes on"]
    foot = " · ".join(filter(None, parts))
    return Scene(journal.report(watched.bus, watched.profile), foot)


class Tail:
    """The new lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def print_new(self, console: Console) -> None:
        """Print the whole lines that were added since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        if whole:
            console.out(whole.decode(errors="replace").rstrip("\n"), highlight=False)


def summary(
    history: JournalReader, profile: Profile, subject: Path, console: Console, user: Path | None = None
) -> None:
    """Print the result of the run, and write the picture beside results.tsv; `user` is the repository to which results
    were pushed."""
    found = snapshot(history, None, profile, time.time())
    report = found.run_report
    if report is None:
        console.print("no run was started; see the logs above")
        return
    reports = reports_folder(subject, history.folder)
    picture = reports / PICTURE
    write_whole(picture, draw_picture(report))
    console.rule(f"Overnight {report.run.tag}")
    for line in _summary_lines(found, report):
        print_line(console, line)
    kept = [row for row in report.rows if row.status == "keep" and not row.experiment.is_baseline]
    if kept:
        console.print(experiments_table(kept))
    for name, text in (
        ("table", reports / "results.tsv"),
        ("picture", picture),
        ("branch", f"{report.run.branch} in {subject}"),
        *([] if user is None else [("pushed", _pushed(report, user))]),
        ("more", "overnight status --verbose, overnight log, overnight export, overnight dashboard"),
    ):
        console.print(f"{name:<10}{text}", soft_wrap=True)


def _summary_lines(found: Report, report: RunReport) -> Iterator[str]:
    yield f"result    {headline(report)}"
    best, closest = report.incumbent, report.closest
    if best is not None and not best.experiment.is_baseline:
        yield f"best      experiment {best.experiment.number} ({best.note}): {best.experiment.title}"
    elif closest is not None and closest.delta is not None:
        yield f"closest   {closest_text(closest)}"
    if report.run.ended is not None:
        yield f"ended     {report.run.ended}"
    yield from standing_lines(found, report)
    if found.rates:
        yield proposers_text(found.rates)
    for request in waiting(report):
        if request.kind == "idea":
            yield f"not tried {request.body.partition(chr(10))[0]}"
    for confirmation in report.confirmations:
        if confirmation.verdict is not None:
            yield confirmation_text(report, confirmation)


def _pushed(report: RunReport, user: Path) -> str:
    """Return whether the run's branch in the user's repository shows the best version."""
    best = (report.incumbent and report.incumbent.experiment.commit_sha) or report.run.base_commit
    if UserRepository(user).commit_of(report.run.branch) == best:
        return f"to {user}"
    return f"not to {user}, whose {report.run.branch} shows something else; the log of the researcher says why"
