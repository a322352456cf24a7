"""The table and the chart of all experiments, as pure functions of a report."""

from __future__ import annotations

import pytest

from researcher.source.proposal import Candidate, Proposal, ProposerName, SetKnobs
from services.dashboard.experiments import PAGE_ROWS, chart_of, kind_of, listing_of, query_of
from tests.fixtures.journal_story import Story


def numbers(story: Story, **query: object) -> list[int]:
    values = {"show": "all", "sort": "number", "order": "desc", "search": "", "page": 1} | query
    listing = listing_of(story.report().rows, query_of(**values))  # type: ignore[arg-type]
    return [row.experiment.number for row in listing.rows]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"order": "asc"}, [0, 1, 2, 3, 4]),
        ({"sort": "value", "order": "asc"}, [2, 1, 3, 0, 4]),
        ({"sort": "no such column"}, [4, 3, 2, 1, 0]),
        ({"show": "keep"}, [2, 1]),
        ({"show": "confirmed"}, [1]),
        ({"show": "failed"}, [4]),
        ({"show": "no such kind"}, [4, 3, 2, 1, 0]),
        ({"search": "WARM"}, [2]),
        ({"search": "nothing like it"}, []),
        ({"page": 99}, [4, 3, 2, 1, 0]),
    ],
)
def test_the_table_is_filtered_sorted_and_searched(story: Story, query: dict[str, object], expected: list[int]) -> None:
    assert numbers(story, **query) == expected


def test_each_experiment_has_one_kind(story: Story) -> None:
    assert [kind_of(row) for row in story.report().rows] == ["start", "confirmed", "keep", "discard", "failed"]


def test_an_address_leads_back_to_its_view() -> None:
    query = query_of("keep", "value", "asc", "a & b", 3)

    assert query.address(page=3) == "/experiments?show=keep&sort=value&order=asc&q=a+%26+b&page=3"
    assert "sort=change&order=asc" in query.sorted_by("change"), "the largest gain comes first"
    assert "sort=value&order=desc" in query.sorted_by("value")


def test_a_page_of_the_table_is_short(story: Story) -> None:
    rows = story.report().rows * 100

    listing = listing_of(rows, query_of("all", "number", "asc", "", 2))

    assert (len(listing.rows), listing.pages, listing.found) == (PAGE_ROWS, 5, 500)


def test_the_chart_has_a_point_for_each_experiment_and_the_claims(story: Story) -> None:
    chart = chart_of(story.report())

    kinds = list(chart["kinds"])  # type: ignore[call-overload]
    assert [(point[0], kinds[point[1]], point[2]) for point in chart["points"]] == [  # type: ignore[attr-defined]
        (0, "start", 2.0),
        (1, "confirmed", 1.9),
        (2, "keep", 1.88),
        (3, "discard", 1.95),
        (4, "failed", None),
    ]
    assert chart["claims"] == [[1.5, 1.9, pytest.approx(0.0163, abs=1e-3), "confirmed", 1]]
    assert chart["corners"] == [[0, 2.0], [1, 2.0], [1, 1.9], [2, 1.9], [2, 1.88], [5, 1.88]]


def test_a_claim_stays_at_its_place_while_an_experiment_is_under_way(story: Story) -> None:
    before = chart_of(story.report())["claims"]
    proposal = Proposal(ProposerName.LLM, "under way", "h", (SetKnobs({"A": 9}),))
    story.journal.propose(story.run, proposal, Candidate("A = 9\n", "f9", "c9", 0), story.tick())

    assert chart_of(story.report())["claims"] == before
