"""What a model only thought is no part of its answer, in whichever tags, nested, never closed or never opened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.prompting.reply_parser import read_reply, with_thoughts, without_thoughts

HEAD = "TITLE: Deeper\nHYPOTHESIS: More layers learn more.\n"
ANSWER = HEAD + "SET DEPTH = 4\n"
DECOY = "\nSET DEPTH = 64\n"
TAGS = [("<think>", "</think>"), ("<THINKING>", "</thinking >"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]")]

plain = st.sampled_from(["so ", "\n", DECOY, HEAD, "```\n"])
balanced = st.recursive(
    plain,
    lambda inside: st.builds(
        lambda parts, tags: tags[0] + "".join(parts) + tags[1], st.lists(inside, max_size=4), st.sampled_from(TAGS)
    ),
    max_leaves=8,
)
thoughts = st.lists(balanced, max_size=4).map("".join)
tags = st.sampled_from(TAGS)


@given(thoughts, thoughts, tags)
def test_thoughts_before_and_after_an_answer_are_gone(before: str, after: str, tag: tuple[str, str]) -> None:
    text = f"{tag[0]}{before}{tag[1]}{ANSWER}{tag[0]}{after}{tag[1]}"

    assert without_thoughts(text) == ANSWER


@given(thoughts, thoughts, tags)
def test_thoughts_that_a_template_opened_and_thoughts_that_never_end_are_gone(
    before: str, after: str, tag: tuple[str, str]
) -> None:
    text = f"{before}{tag[1]}{ANSWER}{tag[0]}{after}"

    assert without_thoughts(text) == ANSWER


@given(st.lists(plain | st.sampled_from([part for pair in TAGS for part in pair])).map("".join), thoughts)
def test_stored_with_its_thoughts_an_answer_is_read_as_it_was(native: str, inline: str) -> None:
    for answer in (ANSWER, f"<think>{inline}</think>{ANSWER}", f"{inline}</think>{ANSWER}"):
        assert without_thoughts(with_thoughts(native, answer)).strip() == without_thoughts(answer).strip()


@given(thoughts, tags)
def test_edit_weighed_in_thoughts_is_never_that_of_the_answer(weighed: str, tag: tuple[str, str]) -> None:
    for text in (
        f"{tag[0]}{weighed}{DECOY}{tag[1]}{ANSWER}",
        f"{weighed}{DECOY}{tag[1]}{ANSWER}",
        f"{tag[0]}{tag[0]}{weighed}{tag[1]}{DECOY}{tag[1]}{ANSWER}",
        f"{ANSWER}{tag[0]}{weighed}{DECOY}",
        with_thoughts(f"{weighed}</think>{DECOY}", ANSWER),
    ):
        assert "64" not in str(read_reply(text).edits)


@pytest.mark.parametrize("text", ["a < think > b", "x[think]", "<thinker>", "x = y[THINKER]"])
def test_code_is_no_thought(text: str) -> None:
    assert without_thoughts(text) == text
