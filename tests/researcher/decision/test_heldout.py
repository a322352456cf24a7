"""The held-out slice: shown to people beside every gain, and told to no model."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from researcher.journal.records import Decision
from researcher.prompting.prompt import Prompts
from researcher.proposers.prompt_context import prompt_context
from researcher.report.results_table import ResultsTable
from services.machine.state import CHOICES_FILE, RunConfig, State
from services.views.local import summary
from services.views.show import show_log, show_status
from tests.fixtures.journal_story import PROFILE, Story

PLANTED = 7.0  # far from every score: a digit of it anywhere gives it away


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path / "journal", PLANTED)
    yield made
    made.journal.close()


def a_run(story: Story) -> None:
    """A keep that fits the validation rows by 0.02, confirmed all the same; and one after it."""
    story.baseline(1.80, 1.82)
    story.heldout_gap = PLANTED + 0.02
    story.try_out("wider", 1.70, Decision.KEEP)
    story.heldout_gap = PLANTED
    story.claim([1.71] * 4, [1.81] * 4)
    story.try_out("broken", None, Decision.CRASH)
    story.heldout_gap = PLANTED + 0.03
    story.try_out("deeper", 1.66, Decision.KEEP)


def test_a_gain_that_is_not_there_on_other_text_shows_as_a_gap_beside_the_baselines(story: Story) -> None:
    a_run(story)

    run_report = story.report()

    keep = run_report.heldout.keeps[run_report.run.incumbent or 0]
    assert (keep.code.val, keep.code.heldout) == pytest.approx((1.66, 8.69))
    assert (keep.code.gap, keep.base.gap) == pytest.approx((7.03, 7.0))
    assert keep.val_gain - keep.heldout_gain == pytest.approx(0.03)
    assert (keep.code.trials, keep.base.trials) == (1, 6)
    assert run_report.heldout.confirmed == pytest.approx(0.1)
    assert len(run_report.heldout.claims) == 1


def test_a_claim_that_fell_and_a_run_without_held_out_scores_promise_nothing(tmp_path: Path) -> None:
    without, rolled_back = Story(tmp_path / "without"), Story(tmp_path / "fell", PLANTED)
    for story in (without, rolled_back):
        story.baseline(1.80, 1.82)
        story.try_out("good", 1.70, Decision.KEEP)
        story.claim([1.70] * 4, [1.81] * 4)
    rolled_back.fall("crashed: no memory")

    held = [story.report().heldout for story in (without, rolled_back)]

    for story in (without, rolled_back):
        story.journal.close()
    assert (held[0].keeps, held[0].claims, held[0].confirmed) == ({}, {}, None)
    assert (len(held[1].keeps), len(held[1].claims), held[1].confirmed) == (1, 1, None)


def test_users_see_it_in_the_status_the_log_and_the_summary(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(story)
    state = State(tmp_path)
    choices = RunConfig(profile="cpu", budget=None, subject=str(tmp_path / "subject"), text=None)
    (tmp_path / "journal" / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
    (tmp_path / "subject").mkdir()
    console = Console(width=160, file=io.StringIO(), record=True)

    show_status(state, console, as_json=False, verbose=True)
    status = console.export_text()
    show_status(state, console, as_json=True, verbose=False)
    show_log(state, 1, console)
    log = console.export_text()
    summary(story.journal, PROFILE, tmp_path / "subject", console)
    told = console.export_text()

    line = "0.100000 confirmed, +0.120000 provisional; score 8.690000 there and 1.660000 on val: a gap of +7.03"
    assert line in status
    assert "gain +0.100000, 0.014142 needed; held out +0.100000; not scored on unseen text" in told
    assert "held out  gain +0.098000 there and +0.102000 on val; score 8.712000 there and 1.708000 on val" in log
    assert "val_bpb 1.700000, held out 8.720000" in log
    found = json.loads(capsys.readouterr().out)
    assert found["gain"]["confirmed_heldout"] == pytest.approx(0.1)
    assert [row["heldout"] and row["heldout"]["code"]["trials"] for row in found["rows"]] == [None, 5, None, 1]
    assert found["rows"][1]["claims"][0]["heldout_gain"] == pytest.approx(0.1)


def test_users_see_what_a_claim_gained_on_unseen_text(story: Story, tmp_path: Path) -> None:
    story.unseen_gap = 0.1
    a_run(story)
    console = Console(width=160, file=io.StringIO(), record=True)
    (tmp_path / "subject").mkdir()

    summary(story.journal, PROFILE, tmp_path / "subject", console)

    (claim,) = story.report().confirmations
    assert claim.unseen_gain == pytest.approx(0.1)
    assert "held out +0.100000; unseen +0.100000" in console.export_text()


def test_no_prompt_and_no_table_for_the_subject_knows_it(tmp_path: Path) -> None:
    worlds = []
    for gap in (PLANTED, 0.0):
        story = Story(tmp_path / str(gap), gap)
        story.unseen_gap = gap
        story.baseline(1.80, 1.82)
        story.try_out("wider", 1.64, Decision.KEEP)
        story.claim([1.61] * 4, [1.81] * 4)
        story.try_out("broken", None, Decision.CRASH)
        story.try_out("lucky", 1.53, Decision.KEEP)
        story.claim([1.65] * 4, [1.61] * 4)
        context = prompt_context(story.journal, PROFILE, "Go down.", "A = 2\n", idea="try it")
        prompts = Prompts.read()
        asked = [*prompts.messages(context, 9000), *prompts.repair(context, 9000, "no edit", "no block")]
        worlds.append([repr(context), *(message.content for message in asked), ResultsTable(story.journal).text()])
        story.journal.close()

    assert worlds[0] == worlds[1]
    assert not [text for text in worlds[0] for score in ("8.81", "8.64", "8.61", "8.53") if score in text]
