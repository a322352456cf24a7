"""A real run with many failures and without any user: what is left of it at the end?

Real are torch, the trainer and its sandbox, git, RQ, the server and the supervisor of local mode; only the LLM is a
script. Its answers are cut off, unreadable, not Python, out of range, code that crashes or trains to NaN; its server
breaks, hangs, or is missing for a time. In the first half, trainer, candidate and researcher are killed with SIGKILL in
turn. In the second half only the LLM fails, so that growth would show. Limits: a coherent history, a confirmed gain or
none reported; memory and seconds of the last quarter within 1.2 times those of the quarter before, two more open files
at most.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.report.picture import png
from researcher.report.view import RunReport, build_report
from services.machine.state import State
from tests.bench.scripted_llm import ScriptedLlm
from tests.doubles.ollama_server import OllamaDouble, Turn, listening
from tests.scenarios.crash.checker import check
from trainer.jobs import profile_named
from trainer.sandbox.procfs import process_table

PROFILE = "cpu"
GROWTH_BAR, DESCRIPTORS_BAR = 1.2, 2
LOOK_EVERY_S = 1.0
KILLED_EVERY, KILLED_UNTIL = 7, 0.5  # a kill every 7 experiments, in this share of the run
AWAY = range(30, 36)  # experiments during which no LLM answers
ROLES = {"researcher": "-m researcher", "trainer": "-m trainer", "server": "-server 127.0.0.1"}
VICTIMS = ("trainer", "candidate", "researcher")
STEP = "    lrm = lr_multiplier(share)\n"
HEAD = "TITLE: {title}\nHYPOTHESIS: it may help\n"


def _swap(title: str, more: str) -> Turn:
    return Turn(f"{HEAD.format(title=title)}<<<<<<< SEARCH\n{STEP}=======\n{STEP}{more}>>>>>>> REPLACE\n")


FAULTS: tuple[Turn, ...] = (
    Turn("asdf ;; %% 良い no edits {{{"),
    _swap("crash at step 3", "    if step == 3: raise RuntimeError('planted')\n"),
    Turn("", "drop_mid_stream"),
    _swap("NaN at step 4", "    if step == 4: loss = loss * float('nan')\n"),
    Turn(HEAD.format(title="cut off") + "<<<<<<< SEARCH\n", length=True),
    _swap("not Python", "    def (:\n"),
    Turn("", "server_error"),
    _swap("end in the middle", "    if step == 5: sys.exit(0)\n"),
    Turn("", "garbage_line"),
    Turn(HEAD.format(title="out of range") + "SET DEPTH = 4000\n"),
    Turn("", "stall"),
)


@dataclass(frozen=True)
class Reading:
    """The resources of one process of the run when so many experiments were measured."""

    role: str
    experiments: int
    rss_mib: float
    descriptors: int


class FaultyLlm:
    """Every second answer is one of the faults, in turn; a planted line gets a number, so that none is a repeat."""

    def __init__(self, llm: ScriptedLlm) -> None:
        self._llm = llm
        self._asked = 0

    def __call__(self, question: dict[str, Any]) -> Turn:
        """Return the next answer."""
        self._asked += 1
        if self._asked % 2:
            return self._llm(question)
        turn = FAULTS[self._asked // 2 % len(FAULTS)]
        return Turn(
            turn.text.replace(STEP + "    if", f"{STEP}    marked = {self._asked}\n    if"),
            turn.fault,
            length=turn.length,
        )


def run(folder: Path, experiments: int, budget: float, picture: Path | None) -> None:
    """Do the run and print its result; exits with 1 if a limit is missed."""
    state = State(folder.resolve())
    profile, killed, readings = profile_named(PROFILE), Counter[str](), list[Reading]()
    with ExitStack() as at_the_end:
        llm = FaultyLlm(ScriptedLlm(1, profile.context))
        server = at_the_end.enter_context(_coming_and_going(llm))
        argv = [sys.executable, "-m", "services.cli", "run", "--state", str(state.root), "--profile", PROFILE]
        argv += ["--experiments", str(experiments), "--budget", str(budget), "--seed", "1"]
        argv += ["--ollama-host", server.url, "--model", "small"]
        process = subprocess.Popen(argv, env=os.environ | {"LLM_DEADLINE_S": "20", "EDIT_SHARE": "0.4"})
        at_the_end.callback(_end, process)
        while process.poll() is None:
            measured = _measured(state)
            server.be_there(measured not in AWAY)
            _kill_when_due(process.pid, measured, experiments, killed)
            readings += _read(process.pid, measured)
            time.sleep(LOOK_EVERY_S)
    if process.returncode != 0:
        raise SystemExit(f"the run ended with {process.returncode}; the same command goes on from here")
    with JournalReader(state.journal) as history:
        report = build_report(history, profile)
    assert report is not None, "a run that ended has a run"
    missed = _print(report, check(state.root), killed, readings, experiments)
    if picture is not None:
        picture.write_bytes(_drawn(report, readings))
    if missed:
        print(*missed, sep="\n")
        sys.exit(1)


class Server:
    """The LLM's server, which can be missing; its address stays."""

    def __init__(self, script: Callable[[dict[str, Any]], Turn]) -> None:
        self._script = script
        self._open = ExitStack()
        double = OllamaDouble(script)
        self._open.enter_context(listening(double))
        self.url, self._port, self._is_there = double.url, double.server_address[1], True

    def be_there(self, wanted: bool) -> None:
        """Start or stop the server."""
        if wanted and not self._is_there:
            self._open.enter_context(listening(OllamaDouble(self._script, port=self._port)))
        elif not wanted:
            self._open.close()
        self._is_there = wanted


@contextlib.contextmanager
def _coming_and_going(script: Callable[[dict[str, Any]], Turn]) -> Iterator[Server]:
    server = Server(script)
    try:
        yield server
    finally:
        server.be_there(False)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def _measured(state: State) -> int:
    try:
        with JournalReader(state.journal) as history:
            return history.measured_count()
    except JournalError:  # the journal does not exist yet
        return 0


def _parts(root: int) -> dict[str, int]:
    """Return the pids of the run's processes and of a candidate that trains: the trainer forks, the guardian is below
    the fork."""
    table = process_table()

    def below(parents: Collection[int], words: str = "") -> list[int]:
        return [each.pid for each in table.values() if each.parent in parents and words in _words(each.pid)]

    found = {role: below([root], words) for role, words in ROLES.items()}
    found["candidate"] = below(below(below(found["trainer"])))
    return {role: min(pids) for role, pids in found.items() if pids}


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # the process ended meanwhile
        return ""


def _kill_when_due(root: int, measured: int, experiments: int, killed: Counter[str]) -> None:
    """Kill one of the victims in turn, each time that `KILLED_EVERY` more experiments are measured."""
    due = measured // KILLED_EVERY
    if measured > KILLED_UNTIL * experiments or killed.total() >= due:
        return
    victim = VICTIMS[killed.total() % len(VICTIMS)]
    pid = _parts(root).get(victim)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed[victim] += 1


def _read(root: int, measured: int) -> list[Reading]:
    table, found = process_table(), []
    for role, pid in _parts(root).items():
        if role in ROLES and pid in table:
            with contextlib.suppress(OSError):  # the process ended meanwhile
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
                found.append(Reading(role, measured, table[pid].rss_mib, descriptors))
    return found


def _print(
    report: RunReport, found: dict[str, Any], killed: Counter[str], readings: list[Reading], experiments: int
) -> list[str]:
    """Print the tables; return a message for each missed limit."""
    quarters = (range(experiments // 2, experiments * 3 // 4), range(experiments * 3 // 4, experiments + 1))
    table = Table(title=f"{experiments} experiments with faults: the third quarter and the last")
    for name in ("", "third", "last", "growth"):
        table.add_column(name, justify="right")
    missed = [f"missed: {fault}" for fault in found["faults"]]
    missed += [
        f"missed: the {victim} was never killed, so nothing is shown" for victim in VICTIMS if not killed[victim]
    ]
    missed += [] if report.tally["rejected"] else ["missed: no answer was refused, so nothing is shown"]
    for role in ROLES:
        for what, bar in (("rss_mib", GROWTH_BAR), ("descriptors", None)):
            before, last = (_median(readings, role, what, quarter) for quarter in quarters)
            table.add_row(f"{role} {what}", f"{before:.1f}", f"{last:.1f}", f"{last / before:.2f}")
            if last > (before + DESCRIPTORS_BAR if bar is None else before * bar):
                missed.append(f"missed: the {role}'s {what} grew from {before:.1f} to {last:.1f}")
    took = [(row.experiment.number, row.took_s) for row in report.rows if row.experiment.was_measured and row.took_s]
    half, most = len(took) // 2, len(took) * 3 // 4
    before, last = median(s for _, s in took[half:most]), median(s for _, s in took[most:])
    table.add_row("seconds an experiment", f"{before:.1f}", f"{last:.1f}", f"{last / before:.2f}")
    if last > GROWTH_BAR * before:
        missed.append(f"missed: an experiment took {before:.1f} s, then {last:.1f} s")
    Console(width=100).print(table)
    print(f"killed: {', '.join(f'{count} times the {victim}' for victim, count in killed.items())}")
    print(f"tally: {report.tally}; the history: {found}")
    gain = report.gain.confirmed if report.gain is not None else None
    print("confirmed: none" if gain is None else f"confirmed: {gain:.6f}, held out {report.heldout.confirmed}")
    return missed


def _median(readings: list[Reading], role: str, what: str, quarter: range) -> float:
    return median(getattr(each, what) for each in readings if each.role == role and each.experiments in quarter)


def _drawn(report: RunReport, readings: list[Reading]) -> bytes:
    """Draw a PNG: memory, descriptors and seconds of each experiment, over the experiments."""
    figure = Figure(figsize=(10, 8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    memory, descriptors, seconds = figure.subplots(3, sharex=True)
    for role in ROLES:
        mine = [each for each in readings if each.role == role]
        memory.plot([each.experiments for each in mine], [each.rss_mib for each in mine], ".", markersize=2, label=role)
        descriptors.plot([each.experiments for each in mine], [each.descriptors for each in mine], ".", markersize=2)
    took = [row.took_s for row in report.rows if row.experiment.was_measured and row.took_s is not None]
    seconds.plot(range(1, len(took) + 1), took, ".", markersize=4, color="#0b7a5c")
    for axes, label in ((memory, "resident MiB"), (descriptors, "open files"), (seconds, "seconds an experiment")):
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    memory.legend(frameon=False)
    seconds.set_xlabel("experiments measured; kills in the first half")
    return png(figure)
