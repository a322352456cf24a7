"""Errors with fields: their text is both fields, also where they are errors of other kinds, too."""

from __future__ import annotations

import pickle

import pytest

from researcher.errors import BadValue, OvernightError, ResearcherError


@pytest.mark.parametrize("kind", [OvernightError, BadValue])
def test_the_text_of_an_error_is_what_was_found_and_the_next_step(kind: type[OvernightError]) -> None:
    error = pickle.loads(pickle.dumps(kind("LR is 0", "set LR=1")))

    assert (error.found, error.next_step) == ("LR is 0", "set LR=1")
    assert str(error) == "LR is 0; set LR=1"


@pytest.mark.parametrize("kind", [OvernightError, ResearcherError, ValueError])
def test_a_bad_value_is_caught_as_any_of_its_kinds(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        raise BadValue("LR is 0", "set LR=1")
