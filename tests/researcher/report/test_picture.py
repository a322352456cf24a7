"""The picture: no text covers another, numbers stay at their points, and single scores do not flatten the rest."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import cast

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from researcher.journal.records import Decision
from researcher.report.picture import draw, figure_of
from researcher.report.picture_layout import LOOKS, Look
from researcher.report.view import RunReport
from tests.fixtures.journal_story import Story
from trainer.jobs import Outcome

CROWDED = 600  # experiments of a run whose keeps are all among the first eight
NEAR_PX = 40.0  # a number is at most this far from its point
LONG = "SOME_KNOB_WITH_A_LONG_NAME 123456 -> 654321 and $x^2$, because of a hypothesis that does not end " * 2


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path)
    yield made
    made.journal.close()


def played(story: Story, experiments: int) -> RunReport:
    """A run with keeps, discards, failures and claims, in the proportions of real runs."""
    chance, best = random.Random(experiments), 2.5
    story.baseline(2.50, 2.51, 2.49)
    for number in range(1, experiments + 1):
        if number % 7 == 0:
            story.try_out("broken", None, Decision.CRASH, chance.choice([Outcome.CRASHED, Outcome.TIMED_OUT]))
        elif chance.random() < 0.3:
            best -= chance.random() * 0.3 / experiments**0.5
            story.try_out(LONG, best, Decision.KEEP)
        else:
            story.try_out("worse", best + chance.random(), Decision.DISCARD)
        if number % 25 == 10 and story.run.incumbent != story.run.confirmed:
            story.claim([best] * 4, [best + (0.2 if chance.random() < 0.7 else 0.0)] * 4)
    return story.report()


def stretched(report: RunReport, times: int) -> RunReport:
    """The same run several times in a row, as one run."""
    rows, confirmations = [report.rows[0]], []
    experiments, seconds = len(report.rows) - 1, report.rows[-1].experiment.applied_at or 0.0
    for part in range(times):
        ids, at = part * experiments, part * seconds
        for row in report.rows[1:]:
            item = row.experiment
            moved = replace(item, id=item.id + ids, number=item.number + ids, decided_at=(item.decided_at or 0.0) + at)
            rows.append(replace(row, experiment=moved))
        confirmations += [
            replace(each, head=each.head + ids, decided_at=(each.decided_at or 0.0) + at)
            for each in report.confirmations
        ]
    return replace(report, rows=tuple(rows), confirmations=tuple(confirmations))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunReport]:
    """Runs by their number of experiments."""
    found = {}
    for experiments in (12, 50):
        story = Story(tmp_path_factory.mktemp("journal"))
        found[experiments] = played(story, experiments)
        story.journal.close()
    story = Story(tmp_path_factory.mktemp("journal"))
    story.baseline(2.50, 2.51)
    for number in range(8):
        story.try_out(f"keep {number}", 2.499 - number / 10_000, Decision.KEEP)
    story.try_out("worse", 2.52, Decision.DISCARD)
    crowded = followed(story.report(), CROWDED - 9)
    story.journal.close()
    return found | {150: stretched(found[50], 3), 1000: stretched(found[50], 20), CROWDED: crowded}


def followed(report: RunReport, discards: int) -> RunReport:
    """The same run, followed by copies of its last experiment."""
    last = report.rows[-1]
    items = [
        replace(last.experiment, id=last.experiment.id + more, number=last.experiment.number + more)
        for more in range(1, discards + 1)
    ]
    return replace(report, rows=(*report.rows, *(replace(last, experiment=item) for item in items)))


def texts(figure: Figure) -> list[Text]:
    """Every text that is drawn, once it is laid out."""
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    found = [cast("Text", item) for item in figure.findobj(Text)]
    hidden = {label for axes in figure.axes for each in (axes, *axes.child_axes) for label in _outside(each)}
    return [item for item in found if item not in hidden and item.get_visible() and item.get_text().strip()]


def _outside(axes: Axes) -> Iterator[Text]:
    """The labels of ticks beyond the axes' ends, which matplotlib holds and does not draw."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def numbers(axes: Axes) -> list[Text]:
    return [text for text in axes.texts if text.get_text().isdigit()]


@pytest.mark.parametrize("look", [Look(), Look(portrait=True)], ids=["landscape", "portrait"])
@pytest.mark.parametrize("experiments", [12, 150, 1000, CROWDED])
def test_no_text_covers_another_or_leaves_the_picture(
    reports: dict[int, RunReport], experiments: int, look: Look
) -> None:
    figure = figure_of(reports[experiments], look)

    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]

    for (one, first), (other, second) in combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        along = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 1 or along <= 1, f"{one!r} and {other!r}"
    for words, box in boxes:
        assert box.x0 >= 0, words
        assert box.y0 >= 0, words
        assert box.x1 <= figure.bbox.x1, words
        assert box.y1 <= figure.bbox.y1, words


@pytest.mark.parametrize("experiments", [12, 150])
def test_a_number_stands_beside_its_point_and_its_title_in_the_list(
    reports: dict[int, RunReport], experiments: int
) -> None:
    report = reports[experiments]
    figure = figure_of(report, Look())
    axes = figure.axes[0]

    listed = " ".join(text.get_text() for text in figure.texts)
    found = numbers(axes)

    assert len(found) >= 2
    for text in found:
        row = report.rows[int(text.get_text())]
        x, y = axes.transData.transform((row.experiment.number, row.experiment.score or 0.0))
        box = text.get_window_extent()
        assert max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1) <= NEAR_PX
        assert f"{row.experiment.number} (" in listed
    assert "SOME_KNOB" in listed


@pytest.mark.parametrize("far", [900.0, 0.001], ids=["worse", "lower and rolled back"])
def test_a_score_that_is_far_off_does_not_flatten_the_others(story: Story, far: float) -> None:
    def height() -> float:
        low, high = figure_of(story.report(), Look()).axes[0].get_ylim()
        return high - low

    story.baseline(2.50, 2.51)
    story.try_out("good", 2.40, Decision.KEEP)
    story.claim([2.40] * 4, [2.50] * 4)
    before = height()

    story.try_out("far", far, Decision.DISCARD if far > 1 else Decision.KEEP)
    if far < 1:
        story.claim([2.40] * 4, [2.40] * 4)

    assert height() < 1.5 * before
    labels = figure_of(story.report(), Look()).axes[0].get_legend_handles_labels()[1]
    assert ("worse, off the scale" if far > 1 else "better, off the scale") in labels


def test_it_comes_as_png_and_svg_dark_and_portrait(reports: dict[int, RunReport]) -> None:
    report = reports[12]

    assert draw(report).startswith(b"\x89PNG")
    assert b"<svg" in draw(report, LOOKS["progress.svg"])[:500]
    assert len({draw(report, look) for look in LOOKS.values()}) == len(LOOKS)
    dark, portrait = (figure_of(report, LOOKS[name]) for name in ("progress-dark.png", "progress-portrait.png"))
    assert sum(dark.get_facecolor()[:3]) < 0.5
    assert portrait.bbox.height > portrait.bbox.width


@pytest.mark.parametrize("look", [Look(), LOOKS["progress.svg"]], ids=["png", "svg"])
def test_equal_runs_give_equal_bytes(reports: dict[int, RunReport], look: Look) -> None:
    report = reports[12]

    assert draw(report, look) == draw(report, look)
