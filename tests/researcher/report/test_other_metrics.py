"""A run of another metric, of which more is better and which the script claims: each view shows its values."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from researcher.decision.rules import Rule, decide
from researcher.journal.database import JOURNAL_FILE
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision
from researcher.optimizer.optimizer import Optimizer
from researcher.prompting.prompt import Prompts
from researcher.proposers.edit_formats import AskedModel
from researcher.proposers.novelty import objection
from researcher.proposers.prompt_context import Briefing
from researcher.report.document import MetricFields
from researcher.report.picture import figure_of
from researcher.report.picture_layout import Look
from researcher.report.results_table import ResultsTable, cell
from researcher.report.snapshot import snapshot
from researcher.report.view import headline
from researcher.source.proposal import Candidate, ProposerName
from services.machine.state import RunConfig, State
from services.views.render import Scene, draw
from services.views.runs import show_runs
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import BITS_PER_BYTE, Degree, Direction, Metric, Outcome
from trainer.jobs.task import ScoreCommand, Task

ACCURACY = Metric("accuracy", Direction.HIGHER)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A run whose start is right in 50 of 100 cases, with a worse change and a confirmed one that is right in 60."""
    made = Story(tmp_path, metric=ACCURACY, degree=Degree.CLAIMED)
    made.baseline(-0.49, -0.51)
    made.try_out("worse", ACCURACY.score_of(0.4), Decision.DISCARD)
    made.try_out("better", ACCURACY.score_of(0.6), Decision.KEEP)
    made.claim([ACCURACY.score_of(0.6)] * 3, [ACCURACY.score_of(0.5)] * 3)
    yield made
    made.journal.close()


def test_the_journal_keeps_the_metric(story: Story, tmp_path: Path) -> None:
    with JournalReader(tmp_path) as history:
        run = history.run()

    assert run is not None
    assert (run.metric, run.degree) == (ACCURACY, Degree.CLAIMED)


def test_a_run_of_an_older_journal_is_of_bits_per_byte(story: Story, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / JOURNAL_FILE, isolation_level=None)) as database:
        database.execute(
            "UPDATE run SET metric_name = NULL, metric_direction = NULL, metric_unit = NULL, degree = NULL"
        )

    assert (story.run.metric, story.run.degree) == (BITS_PER_BYTE, Degree.MEASURED)


def test_the_headline_gives_the_gain_and_who_claims_it(story: Story) -> None:
    assert headline(story.report()) == "20.0 % better than the start, measured again 3 times, claimed by the script"


def test_a_gain_over_a_start_of_zero_is_in_the_unit_of_the_metric(tmp_path: Path) -> None:
    story = Story(tmp_path, metric=Metric("cost", unit="km"))
    story.baseline(0.0, 0.0)
    story.try_out("better", -2.5, Decision.KEEP)

    assert headline(story.report()) == "Perhaps 2.5 km better than the start, not yet measured again (1 tried)"
    assert len(figure_of(story.report(), Look()).axes) == 1


def test_rows_show_values_and_their_change(story: Story) -> None:
    _, worse, better = story.report().rows

    assert [cell(row, "value", ".2f") for row in (worse, better)] == ["0.40", "0.60"]
    assert [cell(row, "delta", "+.2f") for row in (worse, better)] == ["-0.10", "+0.10"]


def test_results_tsv_names_the_metric(story: Story) -> None:
    header, baseline, _, better = ResultsTable(story.journal).text().splitlines()

    assert header.split("\t") == ["commit", "accuracy", "memory_gb", "status", "description"]
    assert (baseline.split("\t")[1], better.split("\t")[1]) == ("0.500000", "0.600000")


def test_the_json_has_the_metric_and_its_values(story: Story) -> None:
    document = snapshot(story.journal, None, PROFILE, 0.0).document()

    assert document.metric == MetricFields("accuracy", "", Direction.HIGHER, Degree.CLAIMED)
    assert document.best is not None
    assert document.best.value == pytest.approx(0.6)
    assert document.gain is not None
    assert (document.gain.baseline, document.gain.confirmed) == (pytest.approx(0.5), pytest.approx(0.1))


def test_the_list_of_runs_names_the_metric_of_each(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    task = Task("solve.py", ("python", "solve.py"), 20.0, "SEED", 0.01, ACCURACY, {})
    state.write(RunConfig("cpu", None, "subject", None, task=task.to_json()))
    story = Story(state.journal, metric=ACCURACY, degree=Degree.CLAIMED)
    story.baseline(0.0, 0.0)
    story.try_out("better", ACCURACY.score_of(0.6), Decision.KEEP)
    story.claim([ACCURACY.score_of(0.6)] * 3, [ACCURACY.score_of(0.0)] * 3)
    console = Console(width=200, record=True)

    show_runs(state, console, as_json=False)

    text = console.export_text()
    assert "accuracy 0.600000 (claimed)" in text
    assert "+0.600000" in text


def test_the_live_view_shows_values(story: Story) -> None:
    console = Console(width=120, record=True)
    console.print(draw(Scene(snapshot(story.journal, None, PROFILE, 0.0), verbose=True)))
    text = console.export_text()

    assert "metric    accuracy (higher is better, claimed by the script)" in text
    assert "baseline  0.500000" in text
    assert "best      0.600000" in text
    assert "-0.6" not in text


def test_the_picture_has_better_scores_above_and_shows_values(story: Story) -> None:
    figure = figure_of(story.report(), Look())
    figure.canvas.draw()
    axes = figure.axes[0]
    height = {value: axes.transData.transform((0, ACCURACY.score_of(value)))[1] for value in (0.5, 0.6)}
    shown = [float(label.get_text()) for label in axes.get_yticklabels()]

    assert height[0.6] > height[0.5]
    assert axes.get_ylabel() == "accuracy (higher is better, claimed by the script)"
    assert shown
    assert all(value > 0 for value in shown)


def test_a_reason_shows_values() -> None:
    ruling = decide(
        Outcome.OK,
        ACCURACY.score_of(0.6),
        parent_scores=[ACCURACY.score_of(0.5)],
        parent_is_incumbent=True,
        added_lines=0,
        sigma=0.01,
        rule=Rule.WALK,
        detail="",
        metric=ACCURACY,
    )

    assert ruling.decision is Decision.KEEP
    assert ruling.reason == "0.600000 against 0.500000: better by 0.100000 (same length)"


def test_the_reason_of_a_claim_shows_values(story: Story) -> None:
    (claim,) = story.report().confirmations

    assert claim.reason is not None
    assert claim.reason.startswith("3 fresh seeds give 0.600000 against 0.500000: gain +0.100000")


def test_prompts_name_the_metric_and_show_values(story: Story) -> None:
    briefing = Briefing(replace(PROFILE, metric=ACCURACY), lambda: "goal", Optimizer(seed=1, context=256))
    context = briefing.context(story.journal, "A = 1\n", model=AskedModel("m"))
    asked = Prompts.read().messages(context, 100_000)
    text = "\n".join(message.content for message in asked)

    assert "scored by accuracy (higher is better)" in text
    assert "A change of the score above 0 is better." in text
    assert "It scores accuracy 0.600000. The script the run began with scores 0.500000." in text
    assert "-0.6" not in text


@pytest.mark.parametrize(
    ("score", "rule"),
    [
        (None, "It must still print the line `accuracy: number` at its end."),
        (ScoreCommand(("python", "score.py"), "output"), "It must still leave its result in the folder `output`."),
    ],
)
def test_prompts_for_a_task_name_its_own_rules(story: Story, score: ScoreCommand | None, rule: str) -> None:
    task = Task("solve.py", ("python", "solve.py"), 20.0, "SEED", 0.01, ACCURACY, {}, score=score)
    briefing = Briefing(PROFILE.of_task(task), lambda: "goal", Optimizer(seed=1, context=256))
    context = briefing.context(story.journal, "A = 1\n", model=AskedModel("m"))
    system = Prompts.read().messages(context, 100_000)[0].content

    assert rule in system
    assert "`python solve.py` takes at most 20 wall seconds, on no GPU. train.py is solve.py there." in system
    told = system.partition("# How to answer")[0]
    assert "evaluate_bpb" not in told
    assert "{" not in told


def test_a_refusal_shows_the_value(story: Story) -> None:
    refused = objection(story.journal, ProposerName.LLM)(Candidate("A = 2\n", "f1", "c9", 0))

    assert refused == "the same code was tried before (experiment 1: discard, 0.400000)"
