"""The status of a process, as it is stored in Redis and read again, whoever wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.jobs import Status, StatusKind

STATUSES = st.builds(Status, st.sampled_from(StatusKind), st.text())


@given(STATUSES)
def test_it_is_read_as_it_was_written(status: Status) -> None:
    assert Status.from_json(status.to_json()) == status
    assert Status.from_fields(status.to_fields()) == status


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proposing",
        "held: the disk is full",
        "ended",
        "7",
        "null",
        "[]",
        '{"message": "of no kind"}',
        '{"kind": "held"}',
        '{"kind": "unheard of", "message": ""}',
        '{"kind": [], "message": ""}',
    ],
)
def test_any_other_text_is_the_message_of_a_process_that_works(text: str) -> None:
    assert Status.from_json(text) == Status.working(text)


@pytest.mark.parametrize(
    ("kind", "is_over"),
    [(StatusKind.WORKING, False), (StatusKind.HELD, False), (StatusKind.ENDED, True), (StatusKind.REFUSED, True)],
)
def test_it_is_over_where_somebody_must_start_it_again(kind: StatusKind, is_over: bool) -> None:
    assert Status(kind, "").is_over is is_over


def test_users_read_the_kind_only_of_what_does_not_work() -> None:
    assert str(Status.working("trial 3")) == "trial 3"
    assert str(Status(StatusKind.HELD, "no room")) == "held: no room"
    assert str(Status(StatusKind.ENDED, "")) == "ended"
