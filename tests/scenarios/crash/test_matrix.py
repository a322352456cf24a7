"""Every step of the run as a place to die: before it and after it, again during recovery, in two rounds of a run.

A round measures a file that a person submitted, good in the first and crashing in the second, and moves of the
optimiser, of which one is a gain: each has its claim. What came of it is judged by a checker that shares no code.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from researcher.queues.requests import send
from tests.fixtures.scripted_run import SUBJECT
from tests.scenarios.crash.checker import check
from tests.scenarios.crash.conftest import report_found
from tests.scenarios.crash.forked_run import ForkedRun
from tests.scenarios.crash.kills import Kill, Moment, Victim

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

STEPS = (
    *(
        f"researcher.journal.writer.Journal.{step}"
        for step in (
            "start_run", "end", "receive", "propose", "committed", "measuring", "add_trial", "finish_trial", "decide",
            "_move", "applied", "begin_confirmation", "decide_claim", "confirmation_applied",
        )
    ),
    *(
        f"researcher.repository.repository.Workspace.{step}"
        for step in ("restore", "commit_candidate", "checkout", "tag_confirmed")
    ),
    *(f"git {word}" for word in ("update-ref", "symbolic-ref", "reset")),
    *(f"researcher.repository.recovery.{step}" for step in ("create_empty", "run_git")),
    *(
        f"researcher.repository.publishing.{step}"
        for step in ("UserRepository.fetch", "UserRepository.push", "run_git")
    ),
    "shutil.copytree",  # of the copy in the journal's folder
    *(f"researcher.queues.trials.TrialQueue.{step}" for step in ("hand_out", "poll", "forget")),
    "researcher.queues.requests.RequestWorker.execute_job",
    "pathlib.Path.replace",  # of results.tsv
)  # fmt: skip
OF_A_TRIAL = (
    "trainer.trial.trial.run_trial",
    "trainer.trial.result_store.store",
    "trainer.worker.rq_worker.OneQueueWorker.handle_job_success",
)
OF_THE_WORKER = (
    "trainer.worker.rq_worker.OneQueueWorker.prepare_execution",
    "trainer.worker.rq_worker.OneQueueWorker.fork_work_horse",
    "trainer.worker.rq_worker.OneQueueWorker.monitor_work_horse",
)
ROUNDS = (
    SUBJECT.replace("LEVEL = 1.8", "LEVEL = 1.77"),
    SUBJECT.replace("LEVEL = 1.8", "LEVEL = 1.7") + "# fate: crashed\n",
)
EXPERIMENTS_A_ROUND = 2
LAST_GOAL = 7


@pytest.mark.parametrize(("place", "step"), list(enumerate(STEPS)), ids=lambda value: str(value).rpartition(".")[2])
def test_researcher_that_dies_at_a_step_and_again_while_it_recovers_loses_and_doubles_nothing(
    place: int, step: str, scripted_run: ForkedRun
) -> None:
    scripted_run.lend_its_repository()
    deaths: list[Moment] = []
    for number, source in enumerate(ROUNDS, start=1):
        send(scripted_run.bus, "submit", f"mine.py\n{source}", request=f"submit-{number}")
        for moment in (Moment.BEFORE, Moment.BEFORE, Moment.AFTER, Moment.AFTER):
            deaths += [moment] * dies(scripted_run, number, Kill((step,), moment, scripted_run.folder / "armed"))
        anywhere = Kill(STEPS, Moment.BEFORE, scripted_run.folder / "armed", skip=(5 * place + number) % 40)
        deaths += [Moment.BEFORE] * dies(scripted_run, number, anywhere)
        assert scripted_run.run_researcher(number * EXPERIMENTS_A_ROUND) == 0, scripted_run.last_words()

    assert set(deaths) == set(Moment), "the step was never passed"
    assert_nothing_lost_doubled_or_wrong(scripted_run, "steps of the researcher", len(deaths))


@pytest.mark.parametrize(
    ("victim", "step"),
    [*((victim, step) for victim in Victim for step in OF_A_TRIAL), *((Victim.ITSELF, step) for step in OF_THE_WORKER)],
    ids=lambda value: value.rpartition(".")[2],
)
def test_trial_whose_fork_or_worker_dies_twice_is_measured_again_and_credited_once(
    victim: Victim, step: str, scripted_run: ForkedRun
) -> None:
    for number, (source, moment) in enumerate(zip(ROUNDS, Moment, strict=True), start=1):
        send(scripted_run.bus, "submit", f"mine.py\n{source}", request=f"submit-{number}")
        kill = Kill((step,), moment, scripted_run.folder / "armed", victim=victim)
        kill.arm(2)
        scripted_run.prepare_trainer(kill)
        assert scripted_run.run_researcher(number * EXPERIMENTS_A_ROUND) == 0, scripted_run.last_words()
        assert kill.left() == 0, "the step was never passed"

    assert_nothing_lost_doubled_or_wrong(scripted_run, "steps of a trial", 2 * len(Moment))


def dies(scripted_run: ForkedRun, number: int, kill: Kill) -> bool:
    """Starts a researcher, which may reach the end of the round before it dies. True when it died."""
    kill.arm()
    code = scripted_run.run_researcher(number * EXPERIMENTS_A_ROUND, kill)
    assert code == (0 if kill.left() else -signal.SIGKILL), scripted_run.last_words()
    return code != 0


def assert_nothing_lost_doubled_or_wrong(scripted_run: ForkedRun, what: str, kills: int) -> None:
    """A request that the end of a round came before is served in the next, as a person's would be."""
    goal = len(ROUNDS) * EXPERIMENTS_A_ROUND
    while scripted_run.row("SELECT count(*) FROM request WHERE state = 'done'") != (len(ROUNDS),):
        goal += 1
        assert goal <= LAST_GOAL, "a request was lost"
        assert scripted_run.run_researcher(goal) == 0, scripted_run.last_words()
    found = check(scripted_run.folder)
    report_found(what, found, kills)
    assert found["faults"] == []
    assert found["experiments"] == goal
    if scripted_run.user is not None:
        assert refs(scripted_run.user) == refs(scripted_run.subject)
        assert git(scripted_run.user, "status", "--porcelain", "--branch") == "## main"
        assert git(scripted_run.user, "fsck", "--no-dangling") == ""


def refs(path: Path) -> str:
    """The branch, the tags and the refs of a run."""
    return git(path, "for-each-ref", "refs/heads/overnight", "refs/overnight", "refs/tags")


def git(path: Path, *arguments: str) -> str:
    """What git answers in a repository."""
    done = subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
