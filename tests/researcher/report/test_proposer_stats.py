"""Rates per proposer: they add up to the run's own figures, and nothing is divided by nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import git
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from researcher.decision.cost import cost_of
from researcher.journal.records import Decision, Experiment, Prices, Run, State, Trial
from researcher.report.proposer_stats import COLUMNS, Rates, proposers_text, rates_of
from researcher.report.view import FAILURES, rows_of
from researcher.repository.creation import create_repository
from researcher.source.proposal import LlmCost, Proposal, ProposerName
from services import cli
from services.machine.state import CHOICES_FILE, RunConfig
from services.views.local import summary
from services.views.render import proposers_table
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import Kind, Outcome

RUN = Run(1, "t", "cpu", 15.0, "b", "c", "d", 1, 1, None, None, Prices(per_hour=60.0), 0.0)
ROLLED_BACK = "fell"  # not a decision: all keeps since the baseline are rolled back
ENDS = [(Outcome.OK, Decision.KEEP), (Outcome.OK, Decision.DISCARD), (Outcome.LOST, Decision.DISCARD)]
ENDS += [(outcome, Decision.DISCARD) for outcome in FAILURES]


def experiment(number: int, by: ProposerName | None, outcome: Outcome | None, decision: Decision | None) -> Experiment:
    return Experiment(
        id=number + 1, number=number, parent=None if by is None else 1, proposer=by, title="", hypothesis="",
        request=None, fingerprint=None, added_lines=None, state=State.APPLIED, commit_sha=None, outcome=outcome,
        decision=decision, reason=None, score=None, margin=None, sigma=None, cost=None, proposed_at=0.0,
        decided_at=None, applied_at=None,
    )  # fmt: skip


def first_trial(item: Experiment, wall_s: float | None = 2.0) -> Trial:
    return Trial(
        id=item.id, experiment=item.id, confirmation=None, kind=Kind.FIRST, number=0, attempt=0, faults=0, seed=1,
        score_to_beat=None, finished=True, outcome=item.outcome, reason=None, wall_s=wall_s, queued_at=0.0,
        finished_at=1.0,
    )  # fmt: skip


def rates(
    *items: Experiment,
    run: Run = RUN,
    confirmed: tuple[int, ...] = (),
    scores: dict[int, list[float]] | None = None,
    rolled_back_because: dict[int, str] | None = None,
    wall_s: float | None = 2.0,
) -> tuple[Rates, ...]:
    """Of a run in which each of these that was not rejected had its first trial, beside a baseline."""
    experiments = [experiment(0, None, Outcome.OK, Decision.KEEP), *items]
    trials = [first_trial(item, wall_s) for item in experiments if item.outcome and not item.outcome.is_without_trial]
    return rates_of(run, rows_of(confirmed, experiments, trials, rolled_back_because or {}), scores or {})


@pytest.mark.parametrize(
    ("outcome", "decision", "counts"),
    [
        (Outcome.OK, Decision.KEEP, {"tries": 1, "trials": 1, "kept": 1}),
        (Outcome.OK, Decision.DISCARD, {"tries": 1, "trials": 1}),
        (Outcome.CRASHED, Decision.CRASH, {"tries": 1, "trials": 1, "crashed": 1}),
        (Outcome.OUT_OF_MEMORY, Decision.CRASH, {"tries": 1, "trials": 1, "crashed": 1}),
        (Outcome.TIMED_OUT, Decision.CRASH, {"tries": 1, "trials": 1, "crashed": 1}),
        (Outcome.UNSCORABLE, Decision.DISCARD, {"tries": 1, "trials": 1, "crashed": 1}),
        (Outcome.REJECTED, Decision.DISCARD, {"tries": 1, "rejected": 1}),
        (Outcome.LOST, Decision.DISCARD, {"tries": 1}),
        (Outcome.UNANSWERED, Decision.DISCARD, {"unanswered": 1}),
    ],
)
def test_each_end_of_a_try_is_counted_for_what_it_says_of_its_proposer(
    outcome: Outcome, decision: Decision, counts: dict[str, int]
) -> None:
    (found,) = rates(experiment(1, ProposerName.LLM, outcome, decision), scores={1: [1.8], 2: [1.8]})

    names = ("tries", "rejected", "unanswered", "trials", "crashed", "kept", "confirmed")
    assert {name: getattr(found, name) for name in names if getattr(found, name)} == counts


def test_who_has_tried_nothing_yet_is_not_there() -> None:
    assert rates() == ()
    assert rates(experiment(1, ProposerName.LLM, None, None)) == ()
    assert [each.proposer for each in rates(experiment(1, ProposerName.HUMAN, Outcome.OK, Decision.DISCARD))] == [
        "human"
    ]


def test_a_gain_counts_all_runs_and_only_where_it_still_stands() -> None:
    kept = [experiment(number, ProposerName.OPTIMIZER, Outcome.OK, Decision.KEEP) for number in (1, 2)]
    scores = {1: [1.8, 1.9], 2: [1.5, 1.7, 1.9], 3: [1.2]}

    (found,) = rates(*kept, confirmed=(2, 1), scores=scores, rolled_back_because={3: "no gain"})

    assert (found.kept, found.confirmed) == (2, 1)
    assert found.gain == pytest.approx(0.15)
    assert found.gain_per_trial == pytest.approx(0.075)
    assert found.gain_per_hour == pytest.approx(0.15 * 3600 / 4)


def test_without_a_trial_and_without_an_hour_there_is_no_rate() -> None:
    (found,) = rates(experiment(1, ProposerName.HUMAN, Outcome.REJECTED, Decision.DISCARD))
    (unknown,) = rates(experiment(1, ProposerName.HUMAN, Outcome.OK, Decision.DISCARD), wall_s=None)

    assert (found.gain, found.gain_per_trial, found.gain_per_hour) == (0.0, None, None)
    assert (unknown.gain_per_trial, unknown.gain_per_hour) == (0.0, None)


def test_hours_are_trials_and_answers_and_rejected_answers_count() -> None:
    tries = [(Outcome.REJECTED, Decision.DISCARD), (Outcome.OK, Decision.KEEP)]
    cost = LlmCost("u", "m", 1, 400, 100, 7.0)
    asked = [
        replace(experiment(number, ProposerName.LLM, *end), cost=cost) for number, end in enumerate(tries, start=1)
    ]

    (found,) = rates(*asked, scores={1: [1.8], 3: [1.6]})

    assert (found.cost.trial_s, found.cost.llm_s, found.cost.llm_tokens) == (2.0, 14.0, 1000)
    assert found.gain_per_hour == pytest.approx(0.2 * 3600 / 16)


@pytest.mark.parametrize(
    ("per_mtoken", "billed", "money"),
    [(None, None, None), (10.0, None, 0.005), (None, 0.5, 0.5), (10.0, 0.5, 0.5)],
)
def test_money_is_what_its_questions_cost_and_never_the_machines(
    per_mtoken: float | None, billed: float | None, money: float | None
) -> None:
    item = experiment(1, ProposerName.LLM, Outcome.OK, Decision.DISCARD)
    run = replace(RUN, prices=Prices(per_hour=60.0, per_mtoken=per_mtoken))

    (found,) = rates(replace(item, cost=LlmCost("u", "m", 1, 400, 100, 2.0, billed)), run=run)

    assert found.cost.money == (None if money is None else pytest.approx(money))


happenings = st.one_of(
    st.tuples(st.sampled_from(ProposerName), st.sampled_from(ENDS), st.floats(0.5, 3.0)), st.just(ROLLED_BACK)
)


@given(st.lists(happenings, max_size=40))
def test_over_all_proposers_they_add_up_to_the_run(
    told: list[tuple[ProposerName, tuple[Outcome, Decision], float] | str],
) -> None:
    experiments, scores = [experiment(0, None, Outcome.OK, Decision.KEEP)], {1: [1.8, 1.9]}
    rolled_back_because, head = dict[int, str](), 1
    for happening in told:
        if isinstance(happening, str):
            rolled_back_because |= {item.id: ROLLED_BACK for item in experiments[1:] if item.decision is Decision.KEEP}
            head = 1
            continue
        by, end, score = happening
        item = replace(experiment(len(experiments), by, *end), parent=head, cost=LlmCost("u", "m", 1, 400, 100, 0.5))
        experiments.append(item)
        if item.outcome is Outcome.OK:
            scores[item.id] = [score, score + 0.1]
        head = item.id if item.decision is Decision.KEEP else head
    trials = [first_trial(item) for item in experiments if item.outcome is not Outcome.REJECTED]

    found = rates_of(RUN, rows_of((), experiments, trials, rolled_back_because), scores)

    tried, ends = experiments[1:], [item.outcome for item in experiments[1:]]
    whole = cost_of(RUN, tried, trials[1:], 0.0)
    assert sum(each.tries for each in found) == len(tried)
    assert sum(each.rejected for each in found) == ends.count(Outcome.REJECTED)
    assert sum(each.trials for each in found) == sum(item.was_measured for item in tried) - ends.count(Outcome.LOST)
    assert sum(each.crashed + each.rejected for each in found) == sum(outcome in FAILURES for outcome in ends)
    assert sum(each.kept for each in found) == sum(item.decision is Decision.KEEP for item in tried)
    assert sum(each.gain for each in found) == pytest.approx(fmean(scores[1]) - fmean(scores[head]))
    assert sum(each.cost.hours for each in found) == pytest.approx(whole.hours)
    assert sum(each.cost.llm_tokens for each in found) == whole.llm_tokens


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """One good keep of the optimiser, one of the LLM that fell, and what came to nothing."""
    made = Story(tmp_path / "journal")
    choices = RunConfig(profile="cpu", budget=None, subject=str(tmp_path / "subject"), text=None)
    (tmp_path / "journal" / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
    create_repository(tmp_path / "subject", {"train.py": "A = 1\n", "prepare.py": ""}, "s")
    with git.Repo(tmp_path / "subject") as repository:
        repository.create_head(made.run.branch)
    made.baseline(1.80, 1.82)
    made.try_out("good", 1.70, Decision.KEEP, by=ProposerName.OPTIMIZER)
    made.claim([1.70] * 4, [1.81] * 4)
    made.try_out("lucky", 1.69, Decision.KEEP)
    made.claim([1.70] * 4, [1.70] * 4)
    made.try_out("broken", None, Decision.CRASH)
    made.try_out("gone", None, Decision.DISCARD, Outcome.LOST, faults=2)
    made.journal.reject(made.run, Proposal(ProposerName.HUMAN, "no", "h", ()), "does not parse", made.tick())
    yield made
    made.journal.close()


def test_a_journals_rates_are_those_of_its_run(story: Story) -> None:
    run_report = story.report()

    llm, optimizer, human = rates_of(run_report.run, run_report.rows, story.journal.scores())

    assert (llm.proposer, optimizer.proposer, human.proposer) == (
        ProposerName.LLM,
        ProposerName.OPTIMIZER,
        ProposerName.HUMAN,
    )
    assert (llm.kept, llm.confirmed, llm.gain) == (1, 0, 0.0)
    assert (optimizer.kept, optimizer.confirmed) == (1, 1)
    assert run_report.gain is not None
    assert optimizer.gain == pytest.approx(run_report.gain.baseline - fmean(run_report.incumbent_scores))
    assert (optimizer.cost.trial_s, optimizer.cost.llm_s, optimizer.cost.money) == (2.0, 0.0, 0.0)
    assert llm.cost.llm_s == run_report.cost.llm_s
    assert run_report.tally["keep"] == llm.kept + optimizer.kept + human.kept


def test_status_shows_them_and_scripts_can_read_them(story: Story, tmp_path: Path) -> None:
    shown, read = (
        CliRunner().invoke(cli.app, ["status", "--state", str(tmp_path), *more], env={"COLUMNS": "160"})
        for more in (["--verbose"], ["--json"])
    )

    lines = [line.strip("│ ").split() for line in shown.output.splitlines()]
    first = lines.index(["by", "llm", "optimizer", "human"])
    assert lines[first + 1 : first + 12] == [
        ["tries", "3", "1", "1"],
        ["rejected", "0", "0", "1"],
        ["crashed", "1", "0", "0"],
        ["kept", "1", "1", "0"],
        ["confirmed", "0", "1", "0"],
        ["gain", "0.000000", "0.110000", "0.000000"],
        ["gain/trial", "0.000000", "0.110000", "—"],
        ["gain/hour", "0.000000", "198.000000", "—"],
        ["LLM", "6", "s", "0", "s", "0", "s"],
        ["tokens", "1,500", "0", "0"],
        ["money", "0.01", "0.00", "0.00"],
    ]
    found = json.loads(read.output)["proposers"]
    assert [each["proposer"] for each in found] == ["llm", "optimizer", "human"]
    assert [tuple(each) for each in found] == [tuple(COLUMNS)] * 3
    assert [each["gain_per_trial"] for each in found[1:]] == [pytest.approx(0.11), None]


def test_an_export_has_a_line_for_each_proposer_beside_a_results_json_that_stays_a_list(
    story: Story, tmp_path: Path
) -> None:
    done = CliRunner().invoke(cli.app, ["export", "--to", str(tmp_path / "out"), "--state", str(tmp_path)])

    assert done.exit_code == 0, done.output
    header, *lines = (tmp_path / "out" / "proposers.tsv").read_text().splitlines()
    assert header.split("\t") == [*COLUMNS]
    assert [line.split("\t") for line in lines] == [
        [
            "llm",
            *["3", "0", "0", "2", "1", "1", "0", "0.000000", "0.000000", "0.000000", "6.0", "6.0", "1500", "0.0150"],
        ],
        [
            "optimizer",
            *["1", "0", "0", "1", "0", "1", "1", "0.110000", "0.110000", "198.000000", "2.0", "0.0", "0", "0.0000"],
        ],
        ["human", *["1", "1", "0", "0", "0", "0", "0", "0.000000", "—", "—", "0.0", "0.0", "0", "0.0000"]],
    ]
    assert isinstance(json.loads((tmp_path / "out" / "results.json").read_text()), list)


def test_before_the_first_try_nothing_is_shown_and_the_file_is_its_header(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    console = Console(width=160, file=io.StringIO(), record=True)

    summary(story.journal, PROFILE, tmp_path, console)

    story.journal.close()
    assert "tried," not in console.export_text()
    assert proposers_text(()) == "\t".join(COLUMNS) + "\n"


def test_the_summary_shows_them(story: Story, tmp_path: Path) -> None:
    console = Console(width=160, file=io.StringIO(), record=True)

    summary(story.journal, PROFILE, tmp_path / "subject", console)

    assert "by        llm 3 tried, 1 kept, 0 confirmed; optimizer 1 tried, 1 kept, 1 confirmed" in console.export_text()


def test_the_picture_of_the_summary_replaces_no_committed_one(tmp_path: Path) -> None:
    files = {"train.py": "A = 1\n", "prepare.py": "B = 1\n", "progress.png": "of the user"}
    create_repository(tmp_path / "theirs", files, "theirs")
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    console = Console(width=300, file=io.StringIO(), record=True)

    summary(story.journal, PROFILE, tmp_path / "theirs", console)

    story.journal.close()
    assert (tmp_path / "theirs" / "progress.png").read_text() == "of the user"
    picture = story.journal.folder / "progress.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"picture   {picture}" in console.export_text()


def test_the_summary_says_that_the_users_repository_lacks_the_best_state(story: Story, tmp_path: Path) -> None:
    console = Console(width=160, file=io.StringIO(), record=True)

    summary(story.journal, PROFILE, tmp_path / "subject", console, tmp_path / "away")

    assert f"not to {tmp_path / 'away'}" in console.export_text()


def test_on_80_columns_every_figure_of_everyone_stands_whole() -> None:
    cost = LlmCost("u", "m", 1, 9_000_000, 1, 40_000.0)
    run_report = [experiment(number, by, Outcome.OK, Decision.KEEP) for number, by in enumerate(ProposerName, start=1)]
    priced = replace(RUN, prices=Prices(per_mtoken=100.0))
    found = rates(
        *(replace(item, cost=cost) for item in run_report),
        run=priced,
        scores={1: [1.8]} | {item.id: [1.0] for item in run_report},
    )
    console = Console(width=80, file=io.StringIO(), record=True)

    console.print(proposers_table(found))

    lines = console.export_text().splitlines()
    assert [len(line.split()) - len(found) for line in lines] == [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert "…" not in "".join(lines)


def test_what_nobody_asked_and_nobody_priced_is_left_out() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)

    console.print(proposers_table(rates(experiment(1, ProposerName.OPTIMIZER, Outcome.OK, Decision.DISCARD))))

    assert not {"LLM", "tokens", "money"} & set(console.export_text().split())
