"""One trial of a user's own task: the command in the sandbox, then its printed value or the score command.

Promises: the command and the score command run behind the same sandbox, and never at the same time. The pinned files
have the pinned content before and after the command. The score command gets the pinned files and the output folder,
and only it may read its data. No content that a candidate left is parsed outside of the sandbox, except the lines that
it printed. Does not cover whether a claimed value is true.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from trainer.candidate.command import CommandOrders
from trainer.candidate.protocol import Channel, ChannelMessage
from trainer.data.task_data import TaskData
from trainer.jobs import CLAIMED_BY, Degree, Outcome, Progress, TrialSpec
from trainer.jobs.redaction import redaction
from trainer.jobs.task import ScoreCommand, Task
from trainer.sandbox.cleanup import clear
from trainer.sandbox.landlock import READ
from trainer.sandbox.launch import GuardedProcess, Launch
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.visible_paths import Grant, grants
from trainer.scoring.cross_entropy import Unscorable
from trainer.trial.disk_usage import Holdings, can_be_counted
from trainer.trial.outcome import Observation, Termination, classify
from trainer.trial.output_folder import fault_as_user, fault_of_files
from trainer.trial.printed_metric import printed_value
from trainer.trial.supervise import Supervisor

SCORE_COMMAND = "score command"
_ENDED = Termination(Outcome.OK, "it ended")


@dataclass(frozen=True)
class TaskRun:
    """The end of a trial of a task. `value` is that of the metric, or None; `evaluator` names who gave it."""

    supervisor: Supervisor
    termination: Termination
    value: float | None
    evaluator: str


@dataclass(frozen=True)
class _Command:
    """The start of a command: its words, its files, its links, and what it may read."""

    words: tuple[str, ...]
    files: dict[str, str]
    links: list[tuple[str, str]]
    readable: list[str]
    variables: dict[str, str]
    output: str | None = None


def run_task(
    spec: TrialSpec,
    held: TaskData,
    config: WorkerConfig,
    report: Callable[[Progress], None],
    preempted: Callable[[], bool],
) -> TaskRun:
    """Run the command of the task, and judge it. The caller clears the work folder before and after."""
    task, files = held.task, _own_names(spec.files, held.task.edit)
    evaluator = CLAIMED_BY if task.degree is Degree.CLAIMED else SCORE_COMMAND
    command = _Command(
        words=task.command_with(spec.seed),
        files={name: text for name, text in files.items() if not held.hides(name)},
        links=held.links(task.readable),
        readable=held.absolute(task.readable),
        variables=task.variables_with(spec.seed),
        output=None if task.score is None else task.score.output,
    )
    supervisor = _supervised(spec, held, config, command, report, preempted)
    ended = _ended(supervisor, task.seconds)
    if ended.outcome is Outcome.OK and (fault := _files_fault(spec, task, config)) is not None:
        ended = Termination(Outcome.UNSCORABLE, fault)
    if ended.outcome is not Outcome.OK:
        return TaskRun(supervisor, ended, None, evaluator)
    if task.score is None:
        value = printed_value(supervisor.sink.text(), task.metric.name)
        return TaskRun(supervisor, *_judged(value, task.metric.name, "it"), evaluator)
    return TaskRun(supervisor, *_scored(spec, held, config, task.score, files, preempted), evaluator)


def _files_fault(spec: TrialSpec, task: Task, config: WorkerConfig) -> str | None:
    """Return why the files that the command left cannot be scored, or None."""
    subject, output = config.folder / "subject", None if task.score is None else task.score.output
    if config.user is None:
        return fault_of_files(subject, task.fixed, output, spec.caps.file_mib)
    return fault_as_user(subject, task.fixed, output, spec.caps.file_mib, config.user)


def pins_fault(spec: TrialSpec, held: TaskData) -> str | None:
    """Return why the files of a spec are not those of the task, or None."""
    files = _own_names(spec.files, held.task.edit)
    for name, digest in held.task.fixed.items():
        if name not in files or hashlib.sha256(files[name].encode()).hexdigest() != digest:
            return f"{name} is not the pinned one"
    return None


def _own_names(files: dict[str, str], edit: str) -> dict[str, str]:
    """Return the files of a spec, in which the edited one is always train.py, by their names in the repository."""
    return {name: text for name, text in files.items() if name != "train.py"} | {edit: files["train.py"]}


def _scored(
    spec: TrialSpec,
    held: TaskData,
    config: WorkerConfig,
    score: ScoreCommand,
    files: dict[str, str],
    preempted: Callable[[], bool],
) -> tuple[Termination, float | None]:
    """Run the score command on the output folder, which is its last argument, in a work folder of its own."""
    output = str((config.folder / "subject" / score.output).absolute())
    command = _Command(
        words=(*score.command, output),
        files={name: files[name] for name in held.task.fixed},
        links=held.links(score.readable),
        readable=[output, *held.absolute(score.readable)],
        variables={},
    )
    beside = replace(config, work=config.work / "scoring")
    clear(beside.folder, config.user)
    try:
        supervisor = _supervised(spec, held, beside, command, lambda _: None, preempted)
    finally:
        clear(beside.folder, config.user)
    ended = _ended(supervisor, held.task.seconds)
    if ended.outcome.is_infrastructure:
        return ended, None
    if ended.outcome is not Outcome.OK:  # its words may tell of the data that score, so they are not quoted
        return Termination(Outcome.UNSCORABLE, f"the score command failed on its output ({ended.outcome})"), None
    return _judged(printed_value(supervisor.sink.text(), held.task.metric.name), held.task.metric.name, SCORE_COMMAND)


def _judged(value: float | None, name: str, who: str) -> tuple[Termination, float | None]:
    if value is None:
        return Termination(Outcome.UNSCORABLE, f"{who} printed no line `{name}: number`"), None
    if not math.isfinite(value):
        return Termination(Outcome.UNSCORABLE, f"{who} printed {name}: {value}"), None
    return Termination(Outcome.OK, f"{name} {value:.6f}"), value


def _ended(supervisor: Supervisor, seconds: float) -> Termination:
    """Return the end of a command; OK if it ended by itself with exit code 0."""
    termination = classify(
        Observation(
            stop=supervisor.stop,
            ending=supervisor.ending,
            asked_for_score=False,
            bpb=None,
            printed_bpb=None,
            last_lines=tuple(supervisor.sink.last_words(5)),
            stopped_s=supervisor.peaks.stopped_s,
            away_s=supervisor.peaks.away_s,
            on_wall=True,
        ),
        lambda _: _ENDED,
    )
    if termination.outcome is Outcome.TIMED_OUT:
        return replace(termination, reason=f"it was not done after {seconds:g} s")
    return termination


class _NoExam:
    """The examination of a command, which answers no questions."""

    share = 0.0
    awaits_weights = False

    def begin(self, *, half: bool) -> None:
        """Raise Unscorable, because a command has no channel."""
        raise Unscorable("it asked for its score, and a command prints it")

    def served(self, message: ChannelMessage) -> bool:
        """Raise Unscorable, because no question was asked."""
        raise Unscorable(f"it sent {message.word.name}, and nothing was asked")

    def close(self) -> None:
        """Do nothing, because nothing is open."""


def _supervised(
    spec: TrialSpec,
    held: TaskData,
    config: WorkerConfig,
    command: _Command,
    report: Callable[[Progress], None],
    preempted: Callable[[], bool],
) -> Supervisor:
    """Run a command to its end under a supervisor, which gets no message: the command has no channel."""
    ours, theirs = Channel.pair()
    theirs.close()
    ours.setblocking(False)
    try:
        guarded = GuardedProcess.start(_launch(spec, held, config, command))
        try:
            holdings = Holdings(config.folder) if can_be_counted(config.work) else None
            redact = redaction(config.secrets)
            supervisor = Supervisor(spec, guarded, Channel(ours), _NoExam(), report, preempted, holdings, redact)
            supervisor.run()
        finally:
            guarded.close()
    finally:
        ours.close()
    return supervisor


def _launch(spec: TrialSpec, held: TaskData, config: WorkerConfig, command: _Command) -> Launch:
    folder = config.folder.absolute()
    readable: list[Grant] = [(path, READ) for path in command.readable]
    return Launch(
        folder=folder,
        files=command.files,
        orders=json.dumps(asdict(CommandOrders(list(command.words), command.links, command.output))),
        env={
            "PYTHONPATH": str(folder / "subject"),
            "PYTHONHASHSEED": str(spec.seed % 2**32),
            **command.variables,
        },
        keep_fds=(),
        wall_limit_s=held.task.seconds,
        file_mib=spec.caps.file_mib,
        processes=spec.caps.processes,
        grants=[*grants(None), *readable],
        user=config.user,
        module="trainer.candidate.command",
        held_fds=config.held_fds,
    )
