"""The read model and what is drawn from it: numbers people will believe, so each is checked against the journal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

from researcher.decision.cost import cost_of
from researcher.files import write_whole
from researcher.journal.records import Decision, Prices
from researcher.report.picture import draw
from researcher.report.results_table import ResultsTable, header
from researcher.report.view import build_report, tally_text
from researcher.source.proposal import LlmCost, Proposal, ProposerName
from tests import ROOT
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import BITS_PER_BYTE, Outcome

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path)
    yield made
    made.journal.close()


def test_a_confirmed_gain_is_the_fresh_seeds_mean_and_never_the_lucky_first_run(story: Story) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("lucky", 1.60, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)

    gain = story.report().gain

    assert gain is not None
    assert gain.confirmed == pytest.approx(0.11)
    assert gain.provisional is None


def test_a_rolled_back_keep_is_shown_as_such_and_claims_nothing(story: Story) -> None:
    story.baseline(1.80, 1.82)
    first = story.try_out("lucky", 1.70, Decision.KEEP)
    second = story.try_out("luckier", 1.69, Decision.KEEP)
    story.claim([1.81] * 4, [1.81] * 4)

    run_report = story.report()

    assert run_report.gain is not None
    assert (run_report.gain.confirmed, run_report.gain.provisional) == (None, None)
    rows = {row.experiment.id: row for row in run_report.rows}
    assert rows[first].rolled_back
    assert rows[second].rolled_back
    assert not rows[second].confirmed
    assert run_report.incumbent is not None
    assert run_report.incumbent.experiment.is_baseline


def test_what_was_confirmed_stays_confirmed_when_a_later_keep_falls(story: Story) -> None:
    story.baseline(1.80, 1.82)
    kept = story.try_out("good", 1.70, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)
    lucky = story.try_out("lucky", 1.69, Decision.KEEP)
    story.claim([1.70] * 4, [1.70] * 4)

    run_report = story.report()

    rows = {row.experiment.id: row for row in run_report.rows}
    assert rows[kept].confirmed
    assert not rows[kept].rolled_back
    assert rows[lucky].rolled_back
    assert run_report.gain is not None
    assert run_report.gain.confirmed == pytest.approx(0.11)


def test_a_gain_that_was_confirmed_and_fell_later_counts_no_more(story: Story) -> None:
    story.baseline(1.80, 1.82)
    rolled_back = story.try_out("good", 1.70, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)
    story.fall("crashed: no memory")
    story.try_out("new", 1.75, Decision.KEEP)
    story.claim([1.75] * 4, [1.81] * 4)

    run_report = story.report()

    row = run_report.row(rolled_back)
    assert row is not None
    assert row.note == "rolled back: crashed: no memory"
    assert run_report.gain is not None
    assert run_report.gain.confirmed == pytest.approx(0.06)


def test_before_a_claim_a_gain_is_only_provisional(story: Story) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("good", 1.70, Decision.KEEP)

    gain = story.report().gain

    assert gain is not None
    assert gain.confirmed is None
    assert gain.provisional == pytest.approx(0.11)


def test_the_cost_counts_trials_and_tokens_and_the_machine_also_while_nothing_runs(story: Story) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("a", 1.70, Decision.KEEP)
    story.try_out("b", None, Decision.CRASH)

    stopped, paused = story.report(), build_report(story.journal, PROFILE, at=story.run.created_at + 500.0)

    cost = stopped.cost
    assert (cost.trial_s, cost.llm_s, cost.llm_tokens) == (8.0, 4.0, 1000)
    assert cost.money == pytest.approx(stopped.running_s + 0.01)
    assert paused is not None
    assert paused.cost == replace(cost, money=pytest.approx(500.0 + 0.01))


def test_tokens_that_were_billed_cost_their_bill_and_no_second_price(story: Story) -> None:
    (baseline,) = story.journal.experiments()
    billed, plain = (replace(baseline, cost=LlmCost("u", "m", 1, 400, 100, 2.0, money)) for money in (0.5, None))
    priced = replace(story.run, prices=Prices(per_mtoken=10.0))

    assert cost_of(priced, [billed, plain], [], 0.0).money == pytest.approx(0.5 + 0.005)
    assert cost_of(replace(priced, prices=Prices()), [plain], [], 9.0).money is None


def test_results_tsv_has_five_fields_a_row_and_a_dash_where_there_is_no_number(story: Story) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("tabs\tand\nnewlines", 1.70, Decision.KEEP)
    story.try_out("broken", None, Decision.CRASH)
    story.journal.reject(story.run, Proposal(ProposerName.LLM, "no", "h", ()), "does not parse", story.tick())

    lines = ResultsTable(story.journal).text().splitlines()

    assert lines[0] == header(BITS_PER_BYTE)
    assert [line.split("\t") for line in lines[1:]] == [
        ["bbbbbbb", "1.810000", "1.0", "keep", "baseline"],
        ["1111111", "1.700000", "1.0", "keep", "tabs and newlines (provisional)"],
        ["2222222", "—", "1.0", "crash", "broken (crashed)"],
    ]


def test_results_tsv_that_was_kept_all_run_is_the_one_made_at_its_end(story: Story) -> None:
    kept = ResultsTable(story.journal)
    steps: list[Callable[[], object]] = [
        lambda: story.baseline(1.80, 1.82),
        lambda: story.try_out("good", 1.70, Decision.KEEP),
        lambda: story.claim([1.70] * 4, [1.81] * 4),
        lambda: story.try_out("lucky", 1.69, Decision.KEEP),
        lambda: story.try_out("broken", None, Decision.CRASH),
        lambda: story.claim([1.70] * 4, [1.70] * 4),
        lambda: story.try_out("worse", 1.78, Decision.DISCARD),
    ]

    for step in steps:
        step()
        assert kept.text() == ResultsTable(story.journal).text()
    assert kept.text().count("rolled back") == 1
    assert kept.text().count("confirmed") == 1


def test_results_tsv_says_which_keeps_are_confirmed_which_provisional_and_which_fell_and_why(story: Story) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("good", 1.70, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)
    story.try_out("lucky", 1.69, Decision.KEEP)
    story.claim([1.70] * 4, [1.70] * 4)
    story.try_out("new", 1.68, Decision.KEEP)
    story.try_out("worse", 1.78, Decision.DISCARD)

    rows = [line.split("\t") for line in ResultsTable(story.journal).text().splitlines()]

    assert [row[3] for row in rows[2:]] == ["keep", "keep", "keep", "discard"]
    assert [row[4] for row in rows[2:]] == [
        "good (confirmed)",
        "lucky (rolled back: 4 fresh seeds give 1.700000 against 1.700000: gain +0.000000, 0.014142 needed)",
        "new (provisional)",
        "worse",
    ]


def test_failures_are_counted_by_their_kind_and_what_the_machine_lost_by_the_attempt(story: Story) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("good", 1.70, Decision.KEEP)
    story.try_out("worse", 1.90, Decision.DISCARD)
    for outcome in (Outcome.CRASHED, Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.TIMED_OUT):
        story.try_out("bad", None, Decision.CRASH, outcome)
    story.try_out("odd", None, Decision.DISCARD, Outcome.UNSCORABLE)
    gone = story.try_out("gone", None, Decision.DISCARD, Outcome.LOST, faults=2)
    story.journal.reject(story.run, Proposal(ProposerName.LLM, "no", "h", ()), "does not parse", story.tick())
    story.journal.unanswered(story.run, Proposal(ProposerName.LLM, "?", "", ()), "the server broke off", story.tick())

    run_report = story.report()

    assert run_report.tally == {
        "keep": 1, "discard": 1, "crashed": 2, "out_of_memory": 1, "timed_out": 1, "unscorable": 1, "rejected": 1,
        "unanswered": 1, "infrastructure": 3, "repeated": 0,
    }  # fmt: skip
    assert tally_text(run_report) == (
        "1 kept, 1 discarded, 2 crashed, 1 out of memory, 1 timed out, 1 unscorable, 1 rejected, "
        "1 unanswered, 3 lost to the infrastructure"
    )
    row = run_report.row(gone)
    assert row is not None
    assert row.note == "lost"


def test_the_incumbent_is_known_by_all_its_runs(story: Story) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("lucky", 1.60, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)

    assert story.report().incumbent_scores == (1.60, 1.70, 1.70, 1.70, 1.70)


def test_the_picture_is_drawn_from_the_first_moment_on(story: Story) -> None:
    assert draw(story.report()).startswith(PNG)

    story.baseline(1.80, 1.82)
    assert draw(story.report()).startswith(PNG)

    story.try_out("good", 1.70, Decision.KEEP)
    story.try_out("far off", 9.0, Decision.DISCARD)
    story.try_out("broken", None, Decision.CRASH)
    story.try_out("odd", None, Decision.DISCARD, Outcome.UNSCORABLE)
    story.claim([1.70] * 4, [1.81] * 4)
    story.fall("crashed: no memory")
    assert draw(story.report()).startswith(PNG)


@pytest.mark.parametrize("title", ["scale by $x^{ and \\frac$ 5", "$$", "$\\alpha$ and 5 $", "100 % {x} \\n"])
def test_a_title_is_never_read_as_tex(story: Story, title: str) -> None:
    story.baseline(1.80, 1.82)
    story.try_out(title, 1.70, Decision.KEEP)

    assert draw(story.report()).startswith(PNG)


@pytest.mark.parametrize(
    "settings", [{"text.usetex": True}, {"font.size": 40.0, "savefig.dpi": 10.0}, {"axes.facecolor": "red"}]
)
def test_the_users_settings_of_matplotlib_do_not_change_the_picture(story: Story, settings: dict[str, object]) -> None:
    story.baseline(1.80, 1.82)
    usual = draw(story.report())

    with mpl.rc_context(settings):
        assert draw(story.report()) == usual


def test_a_back_end_that_does_not_exist_keeps_no_picture_from_being_drawn() -> None:
    code = "from researcher.report.picture import png; from matplotlib.figure import Figure; print(len(png(Figure())))"
    env = os.environ | {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": "/nowhere"}

    drawn = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    assert int(drawn.stdout or 0) > 0, drawn.stderr


@pytest.mark.parametrize("place", ["home/.config/matplotlib", "here"])
def test_a_file_of_settings_that_is_no_text_keeps_no_picture_from_being_drawn(tmp_path: Path, place: str) -> None:
    for folder in ("here", "home", place):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "matplotlibrc").write_bytes("font.family: Größe\n".encode("latin-1"))
    code = (
        "import os; from researcher.report.picture import png; from matplotlib.figure import Figure; "
        "print(len(png(Figure())), os.getcwd())"
    )
    env = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}

    drawn = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "here", env=env, capture_output=True, text=True, check=False
    )

    assert drawn.stdout.endswith(f" {tmp_path / 'here'}\n"), drawn.stderr


def test_a_projection_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.tsv"
    path.write_text("old and much longer than the new one")

    write_whole(path, b"new")

    assert path.read_bytes() == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["results.tsv"]
