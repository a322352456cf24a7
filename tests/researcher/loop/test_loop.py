"""The researcher as a process, with a scripted trainer: whole runs, kills, requests, fallbacks."""

from __future__ import annotations

import json
import random
import signal
from contextlib import closing
from pathlib import Path
from statistics import fmean

import git
import pytest

from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Decision, PauseCause, RequestState, State
from researcher.queues.requests import RECEIVE, send, wait_reply
from services.redis.server import RedisServer
from tests.fixtures.scripted_run import FILES, SUBJECT, ScriptedRun
from trainer.jobs import REQUESTS

BRANCH = "overnight/night"


def assert_coherent(scripted_run: ScriptedRun) -> None:
    """One history: every experiment decided once, from its own trial; git shows the incumbent; the table agrees."""
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
        assert run is not None
        experiments = history.experiments()
        assert [item.number for item in experiments] == list(range(len(experiments)))
        assert all(item.state is State.APPLIED for item in experiments)
        assert all(len(history.trials(experiment=item.id)) >= 1 for item in experiments if item.was_measured)
        scores = history.scores()
        for item in experiments:
            if item.was_measured and item.score is not None:
                assert item.score == scores[item.id][0]
        assert run.incumbent is not None
        incumbent = history.experiment(run.incumbent)
        decided = [item for item in experiments if item.was_measured or item.is_baseline]
    repository = git.Repo(scripted_run.subject)
    assert repository.active_branch.name == BRANCH
    assert repository.head.commit.hexsha == incumbent.commit_sha
    assert not repository.is_dirty()
    assert repository.git.fsck("--no-dangling") == ""
    repository.close()
    rows = (scripted_run.subject / "results.tsv").read_text().splitlines()
    assert len(rows) == 1 + len(decided)


THEIR_REPORTS = {"results.tsv": "commit\tval_bpb\n", "progress.png": "a picture\n"}


def test_a_subject_with_reports_and_a_script_of_its_own_name_keeps_both(tmp_path: Path, server: RedisServer) -> None:
    fixed = {name: text for name, text in FILES.items() if name != "train.py"}
    scripted_run = ScriptedRun(tmp_path, server, fixed | THEIR_REPORTS | {"train_gpt.py": SUBJECT})
    try:
        scripted_run.start_trainer()
        researcher = scripted_run.start_researcher(EXPERIMENTS=3, OWN_SCRIPT="train_gpt.py")
        assert researcher.wait(90) == 0, scripted_run.output()
    finally:
        scripted_run.end()

    assert {name: (scripted_run.subject / name).read_text() for name in THEIR_REPORTS} == THEIR_REPORTS
    assert len((scripted_run.journal / "results.tsv").read_text().splitlines()) == 1 + 4
    with closing(git.Repo(scripted_run.subject)) as repository, history_of(scripted_run) as history:
        assert repository.git.status("--porcelain") == ""
        for experiment in history.experiments()[1:]:
            assert repository.git.diff("--name-only", "main", experiment.commit_sha) == "train_gpt.py"
            shown = repository.git.show(f"{experiment.commit_sha}:train_gpt.py", strip_newline_in_stdout=False)
            assert shown == history.source(experiment.id)


def history_of(scripted_run: ScriptedRun) -> JournalReader:
    return JournalReader(scripted_run.journal)


def test_a_run_measures_its_baseline_walks_claims_at_the_end_and_stops_at_its_goal(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    researcher = scripted_run.start_researcher(EXPERIMENTS=8)

    assert researcher.wait(90) == 0, scripted_run.output()
    assert_coherent(scripted_run)
    with history_of(scripted_run) as history:
        run = history.run()
        assert run is not None
        assert len(history.trials(experiment=history.numbered(0).id)) >= 5
        assert history.measured_count() == 8
        claims = history.confirmations()
        assert {claim.kind for claim in claims} == {ConfirmationKind.CLAIM}
        assert ConfirmationVerdict.CONFIRMED in {claim.verdict for claim in claims}, (
            "LEVEL is the score: its moves are real"
        )
        assert run.confirmed == run.incumbent


@pytest.mark.slow
def test_the_same_command_after_the_end_measures_nothing_more_and_a_higher_goal_goes_on(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()
    assert scripted_run.start_researcher(EXPERIMENTS=2).wait(90) == 0
    with history_of(scripted_run) as history:
        before = history.trial_count()

    assert scripted_run.start_researcher(EXPERIMENTS=2).wait(90) == 0
    with history_of(scripted_run) as history:
        assert history.trial_count() == before

    assert scripted_run.start_researcher(EXPERIMENTS=4).wait(90) == 0
    with history_of(scripted_run) as history:
        assert history.measured_count() == 4
    assert_coherent(scripted_run)


@pytest.mark.slow
def test_kill_9_again_and_again_leaves_one_coherent_history(scripted_run: ScriptedRun) -> None:
    chance = random.Random(11)
    trainer = scripted_run.start_trainer()
    for round_number in range(8):
        researcher = scripted_run.start_researcher(EXPERIMENTS=40)
        target = trials_so_far(scripted_run) + chance.randrange(1, 4)
        scripted_run.wait_until(
            lambda history, target=target: history.trial_count() >= target, f"{target} trials in round {round_number}"
        )
        researcher.send_signal(signal.SIGKILL)
        researcher.wait(10)
        if round_number % 3 == 2:
            trainer.send_signal(signal.SIGKILL)
            trainer.wait(10)
            scripted_run.bus.connection.flushall()  # the server lost everything: trials are handed out again
            trainer = scripted_run.start_trainer()

    with history_of(scripted_run) as history:
        goal = history.measured_count() + 2
    assert scripted_run.start_researcher(EXPERIMENTS=goal).wait(90) == 0, scripted_run.output()
    assert_coherent(scripted_run)


def trials_so_far(scripted_run: ScriptedRun) -> int:
    try:
        with JournalReader(scripted_run.journal) as history:
            return history.trial_count()
    except JournalError:
        return 0  # the very first researcher was killed before it wrote anything


def test_sigterm_stops_cleanly_with_exit_code_0_and_a_second_start_goes_on(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher(EXPERIMENTS=500)
    scripted_run.wait_until(lambda history: history.measured_count() >= 2, "two experiments")

    researcher.send_signal(signal.SIGTERM)

    assert researcher.wait(20) == 0
    with history_of(scripted_run) as history:
        goal = history.measured_count() + 1
    assert scripted_run.start_researcher(EXPERIMENTS=goal).wait(90) == 0
    assert_coherent(scripted_run)


def test_pause_resume_submit_confirm_and_stop_are_served_and_answered_while_the_run_runs(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher()
    scripted_run.wait_until(lambda history: history.measured_count() >= 1, "one experiment")

    assert "paused" in (wait_reply(scripted_run.bus, send(scripted_run.bus, "pause"), 20) or "")
    file = SUBJECT.replace("LEVEL = 1.8", "LEVEL = 1.01").replace("WIDTH = 64", "WIDTH = 32")
    submitted = send(scripted_run.bus, "submit", f"mine.py\n{file}")
    assert "runs next" in (wait_reply(scripted_run.bus, submitted, 20) or "")
    with history_of(scripted_run) as history:
        run = history.run()
        assert run is not None
        assert run.pause is not None
        assert run.pause.cause is PauseCause.USER
    said = wait_reply(scripted_run.bus, send(scripted_run.bus, "confirm"), 20) or ""
    assert said.startswith(("nothing to confirm", "taken in", "fresh seeds of experiment"))
    assert "going on" in (wait_reply(scripted_run.bus, send(scripted_run.bus, "resume"), 20) or "")
    scripted_run.wait_until(
        lambda history: (found := history.request(submitted)) is not None and found.state is RequestState.DONE,
        "the submitted file to become an experiment",
    )
    assert "stopping" in (wait_reply(scripted_run.bus, send(scripted_run.bus, "stop"), 20) or "")

    assert researcher.wait(20) == 0
    with history_of(scripted_run) as history:
        titles = [item.title for item in history.experiments()]
    assert "submitted: mine.py" in titles


def test_a_request_sent_twice_with_the_same_id_is_done_once(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    scripted_run.start_researcher()
    scripted_run.wait_until(lambda history: history.run() is not None, "the run")

    for _ in range(2):
        send(scripted_run.bus, "idea", "wider", request="idea-mine")

    assert "LLM" in (wait_reply(scripted_run.bus, "idea-mine", 20) or "")
    with history_of(scripted_run) as history:
        assert [request.id for request in history.requests()] == ["idea-mine"]
        assert history.requests()[0].state is RequestState.WAITING, "without an LLM it waits, visibly"


def test_a_submitted_file_that_does_not_parse_is_refused_in_words_and_costs_no_trial(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    scripted_run.start_researcher()
    scripted_run.wait_until(lambda history: history.measured_count() >= 1, "one experiment")

    send(scripted_run.bus, "submit", "bad.py\ndef broken(:\n", request="submit-bad")
    scripted_run.wait_until(
        lambda history: (found := history.request("submit-bad")) is not None and found.state is RequestState.REFUSED,
        "the refusal",
    )

    with history_of(scripted_run) as history:
        request = history.request("submit-bad")
    assert request is not None
    assert "parse" in request.answer


def test_a_request_that_names_another_function_or_carries_too_much_is_refused_and_does_nothing(
    scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher()
    scripted_run.wait_until(lambda history: history.run() is not None, "the run")
    witness = tmp_path / "witness"

    scripted_run.bus.queue(REQUESTS).enqueue_call("os.mkdir", args=(str(witness),), job_id="evil", result_ttl=-1)

    assert "no work of this process" in (wait_reply(scripted_run.bus, "evil", 20) or "")
    assert not witness.exists()
    for name, body, said in (("large", 300_001 * "x", "at most 300000 characters"), ("odd", 7, "text, not int")):
        scripted_run.bus.queue(REQUESTS).enqueue_call(RECEIVE, args=(name, "idea", body), job_id=name, result_ttl=-1)
        assert said in (wait_reply(scripted_run.bus, name, 20) or "")
    with JournalReader(scripted_run.journal) as history:
        assert history.requests() == []
    assert researcher.poll() is None


def test_three_failures_in_a_row_confirm_the_incumbent_and_the_run_goes_on(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher()
    scripted_run.wait_until(lambda history: history.measured_count() >= 1, "one experiment")
    wait_reply(scripted_run.bus, send(scripted_run.bus, "pause"), 20)
    for number in range(3):
        file = SUBJECT.replace("LEVEL = 1.8", f"LEVEL = 1.{number}1  # fate: crashed\nUNUSED = {number}")
        send(scripted_run.bus, "submit", f"bad{number}.py\n{file}")
    wait_reply(scripted_run.bus, send(scripted_run.bus, "resume"), 20)

    scripted_run.wait_until(
        lambda history: (
            (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS)
            in {(each.kind, each.verdict) for each in history.confirmations() if each.state is State.APPLIED}
        ),
        "the incumbent confirmation and its end",
    )

    assert researcher.poll() is None


def test_a_baseline_that_fails_pauses_the_run_loudly_and_resume_tries_again(scripted_run: ScriptedRun) -> None:
    repository = git.Repo(scripted_run.subject)
    (scripted_run.subject / "train.py").write_text(SUBJECT + "# fate: crashed\n")
    repository.index.add(["train.py"])
    repository.index.commit("broken", author=git.Actor("A", "a@example.com"), committer=git.Actor("A", "a@example.com"))
    repository.close()
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher()

    scripted_run.wait_until(lambda history: bool((run := history.run()) and run.pause), "the pause")

    with history_of(scripted_run) as history:
        run = history.run()
    assert run is not None
    assert run.pause is not None
    assert run.pause.cause is PauseCause.SUBJECT
    assert "the baseline fails" in run.pause.message
    assert "PAUSED" in scripted_run.output()
    wait_reply(scripted_run.bus, send(scripted_run.bus, "resume"), 20)
    scripted_run.wait_until(
        lambda history: any(trial.attempt >= 2 for trial in history.trials()), "the baseline to be tried once more"
    )
    assert researcher.poll() is None
    researcher.send_signal(signal.SIGKILL)
    researcher.wait(10)
    with history_of(scripted_run) as history:
        attempts = max(trial.attempt for trial in history.trials())
    scripted_run.start_researcher()
    scripted_run.wait_until(
        lambda history: any(trial.attempt > attempts for trial in history.trials()), "a start to be a try as well"
    )


@pytest.mark.slow
def test_a_pause_that_a_user_asked_for_outlives_a_restart(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher()
    scripted_run.wait_until(lambda history: history.measured_count() >= 1, "one experiment")
    wait_reply(scripted_run.bus, send(scripted_run.bus, "pause"), 20)
    researcher.send_signal(signal.SIGKILL)
    researcher.wait(10)

    scripted_run.start_researcher()

    assert "it was paused" in (wait_reply(scripted_run.bus, send(scripted_run.bus, "resume"), 20) or "")


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [("PROFILE", "9000gb", "12gb"), ("EXPERIMENTS", "-3", "EXPERIMENTS"), ("RULE", "wild", "RULE")],
)
def test_a_bad_setting_is_named_and_stops_the_start(
    scripted_run: ScriptedRun, setting: str, value: str, named: str
) -> None:
    assert scripted_run.start_researcher(**{setting: value}).wait(30) == 2

    assert named in scripted_run.output()


def test_a_second_researcher_on_the_same_journal_is_refused(scripted_run: ScriptedRun) -> None:
    scripted_run.start_researcher()
    scripted_run.wait_until(lambda history: history.run() is not None, "the first to start")

    assert scripted_run.start_researcher().wait(30) == 2

    assert "another researcher" in scripted_run.output()


@pytest.mark.slow
def test_a_journal_of_another_profile_or_other_data_is_refused(scripted_run: ScriptedRun, tmp_path: Path) -> None:
    scripted_run.start_trainer()
    assert scripted_run.start_researcher(EXPERIMENTS=1).wait(90) == 0

    assert scripted_run.start_researcher(PROFILE="12gb").wait(30) == 2
    upgraded = {"digest": "e" * 64, "earlier_digest": "d" * 64}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(upgraded))
    assert scripted_run.start_researcher(EXPERIMENTS=1).wait(90) == 0, "the same data under another name"
    (tmp_path / "data" / "manifest.json").write_text('{"digest": "other"}')
    assert scripted_run.start_researcher().wait(30) == 2

    assert "profile cpu, not 12gb" in scripted_run.output()
    assert "is not what run night was measured on" in scripted_run.output()


def test_under_the_greedy_rule_every_decision_follows_from_the_scores_alone(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    assert scripted_run.start_researcher(EXPERIMENTS=6, RULE="greedy").wait(90) == 0

    with history_of(scripted_run) as history:
        baseline = history.numbered(0)
        incumbent = [trial.val_bpb for trial in history.trials(experiment=baseline.id) if trial.confirmation is None]
        to_beat = fmean(score for score in incumbent if score is not None)
        measured = [item for item in history.experiments() if item.was_measured]
    assert len(measured) == 6
    for item in measured:
        assert item.score is not None
        assert item.margin == 0.0
        assert (item.decision is Decision.KEEP) == (item.score < to_beat)
        to_beat = min(to_beat, item.score)
