"""Answers as models really write them: what is meant is read, what is not of the form is refused with the reason."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.errors import BadLlmResponse, EditError, Rejected
from researcher.prompting.code_fences import FENCE, Lines
from researcher.prompting.reply_parser import (
    HYPOTHESIS_CHARACTERS,
    LONGEST_CHARACTERS,
    MOST_EDITS,
    Reply,
    one_line,
    read_reply,
)
from researcher.source.edits import apply_edits
from researcher.source.proposal import Edit, KnobLiteral, ReplaceFunction, SearchReplace, SetKnobs, WholeFile
from tests import TESTS

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()
HEAD = "TITLE: Deeper\nHYPOTHESIS: More layers learn more.\n"
BLOCK = "<<<<<<< SEARCH\nDEPTH = 2\n=======\nDEPTH = 4\n>>>>>>> REPLACE\n"
WANTED = Reply("Deeper", "More layers learn more.", (SearchReplace("DEPTH = 2\n", "DEPTH = 4\n"),))
MARKS = (
    "```python",
    "```",
    "~~~",
    "<think>",
    "</think>",
    "x",
    "SET DEPTH = 3",
    "SET DEPTH = (",
    "FUNCTION one",
    "CLASS M",
)
DECOY = BLOCK.replace("DEPTH = 4", "DEPTH = 64")


@pytest.mark.parametrize(
    "text",
    [
        HEAD + BLOCK,
        HEAD + BLOCK.rstrip(),
        "Sure! Here it is.\n\n" + HEAD + "\nThe edit:\n" + BLOCK + "\nGood luck!",
        (HEAD + BLOCK).replace("\n", "\r\n"),
        HEAD + "```python\n" + BLOCK + "```\n",
        HEAD + BLOCK.replace("SEARCH\n", "SEARCH  \n").replace("=======\n", "======= \t\n"),
        HEAD + BLOCK.replace("SEARCH\n", "SEARCH\n```python\n").replace("=======\n", "```\n=======\n"),
        HEAD + BLOCK.replace("<<<<<<< SEARCH", "<<<<<< SEARCH").replace(">>>>>>> REPLACE", ">>>>>> REPLACE"),
        "**TITLE:** Deeper\n**HYPOTHESIS:** More layers learn more.\n" + BLOCK,
        "# Title: Deeper\n- Hypothesis: More\tlayers \x07 learn more.\n" + BLOCK,
        "<think>" + HEAD.replace("Deeper", "No") + DECOY + "</think>\n" + HEAD + BLOCK,
        "<think>a <think>b</think>" + DECOY + "</think>" + HEAD + BLOCK,
        DECOY + "so much for that.</think>" + HEAD + BLOCK,
        HEAD + BLOCK + "<think>or rather\n" + DECOY,
        "<THINKING>" + DECOY + "</Thinking>" + HEAD + BLOCK,
    ],
)
def test_answers_of_every_shape_are_read_alike(text: str) -> None:
    assert read_reply(text) == WANTED


def test_code_with_doctests_and_shorter_rules_survives() -> None:
    code = '"""Doc.\n\n>>> f(1)\n2\n    =======\n===\n"""\nx = 1 << 3 >> 2\n'
    text = f"{HEAD}<<<<<<< SEARCH\nold\n=======\n{code}>>>>>>> REPLACE\n"

    assert read_reply(text).edits == (SearchReplace("old\n", code),)


def test_deletion_and_several_blocks_are_read_in_order() -> None:
    text = HEAD + "<<<<<<< SEARCH\na\n\n=======\n>>>>>>> REPLACE\n" + BLOCK

    assert read_reply(text).edits == (SearchReplace("a\n\n", ""), *WANTED.edits)


def test_longest_fence_counts_as_the_whole_file_when_there_is_no_block() -> None:
    text = f"{HEAD}Instead of\n```python\nDEPTH = 2\n```\nI would write\n~~~python\n{SOURCE}~~~\nthat is all."

    reply = read_reply(text)

    assert reply == Reply("Deeper", "More layers learn more.", (WholeFile(SOURCE),))


ONE = "def one(x):\n    return x\n"
TWO = "    @staticmethod\n    def two(x):\n        return x\n"


@pytest.mark.parametrize(
    ("text", "edits"),
    [
        ("SET DEPTH = 4", (SetKnobs({"DEPTH": 4}),)),
        ('SET DEPTH = 4\nSET LR=0.5  # less\n- `SET P = "L"`', (SetKnobs({"DEPTH": 4, "LR": 0.5, "P": "L"}),)),
        ("```\nSET DEPTH = 2**3\nSET DEPTH = 8\n```", (SetKnobs({"DEPTH": 8}),)),
        ("SET BETAS = (0.9, 0.95)\nSET ON = True", (SetKnobs({"BETAS": (0.9, 0.95), "ON": True}),)),
        (f"FUNCTION one\n```python\n{ONE}```", (ReplaceFunction("one", ONE),)),
        (f"### FUNCTION: `M.two()`\n\n~~~\n{TWO}~~~", (ReplaceFunction("M.two", TWO),)),
        (f"so:\n```\n{ONE}```\nand\n```python\n{TWO}```", (ReplaceFunction(None, ONE), ReplaceFunction(None, TWO))),
        (f"```python\n# FUNCTION one\n{ONE}```", (ReplaceFunction(None, f"# FUNCTION one\n{ONE}"),)),
        (
            f"SET A = 1\n{BLOCK}SET B = 2\nFUNCTION one\n```\n{ONE}```\nIt was\n```\n{ONE}```",
            (SetKnobs({"A": 1}), *WANTED.edits, SetKnobs({"B": 2}), ReplaceFunction("one", ONE)),
        ),
        (
            f'```python\nSETTING = 1\n"""\nSET A = 1\nFUNCTION one\n"""\n{ONE}```',
            (WholeFile(f'SETTING = 1\n"""\nSET A = 1\nFUNCTION one\n"""\n{ONE}'),),
        ),
    ],
)
def test_every_kind_of_edit_is_read_in_the_order_it_stands(text: str, edits: tuple[Edit, ...]) -> None:
    assert read_reply(HEAD + text).edits == edits
    assert read_reply(HEAD + text.replace("\n", "\r\n")).edits == edits


def test_answer_in_one_fence_is_read_with_the_fences_inside_it() -> None:
    text = f"```\n{HEAD}FUNCTION one\n```python\n{ONE}```\n```\n"

    assert read_reply(text) == Reply("Deeper", "More layers learn more.", (ReplaceFunction("one", ONE),))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("", ""),
        ("TITLE: Deeper\n", "Deeper"),
        ("HYPOTHESIS: More layers.\n", "More layers."),
        ("TITLE: Deeper\nHYPOTHESIS: Deeper\n", "Deeper"),
        (HEAD, "Deeper: More layers learn more."),
        ("HYPOTHESIS: \x00\u200b\u202e\n", ""),
    ],
)
def test_edits_count_with_whatever_words_stand_beside_them(head: str, words: str) -> None:
    reply = read_reply(head + BLOCK)

    assert (reply.words, reply.edits) == (words, WANTED.edits)


@pytest.mark.parametrize(
    ("text", "knobs"),
    [
        ("```\nDEPTH = 4\n```", {"DEPTH": 4}),
        (
            "so:\n```python\nDEPTH = 4  # layers\n\nLR = 0.1\n```\nand\n```\nP = 'L'\n```",
            {"DEPTH": 4, "LR": 0.1, "P": "L"},
        ),
    ],
)
def test_fences_of_nothing_but_assignments_set_knobs(text: str, knobs: dict[str, KnobLiteral]) -> None:
    assert read_reply(text).edits == (SetKnobs(knobs),)


@pytest.mark.parametrize(
    "text", ["", " \n\t", "<think>hm</think>", "<think>" + HEAD + DECOY, HEAD + BLOCK + "</think>"]
)
def test_answer_without_a_word_is_a_fault(text: str) -> None:
    with pytest.raises(BadLlmResponse, match="empty"):
        read_reply(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I would rather not.", "holds no edit"),
        ("```\nDEPTH = 4\n```\n```\nDEPTH = 5\n```", "DEPTH is set twice"),
        (HEAD + BLOCK.replace(">>>>>>> REPLACE\n", ""), "edit 1 does not end"),
        (HEAD + BLOCK.replace(">>>>>>> REPLACE\n", "") + BLOCK, "edit 1 does not end"),
        (HEAD + BLOCK + "<<<<<<< SEARCH\nx = 1\n===", "edit 2 does not end"),
        (HEAD + BLOCK.replace("=======\n", ""), "edit 1 has no line '======='"),
        (HEAD + BLOCK.replace("=======\n", "=======\n=======\n"), "edit 1 has 2 lines '======='"),
        (HEAD + BLOCK.replace("DEPTH = 2\n", "\n"), "edit 1 searches for nothing"),
        (HEAD + BLOCK.replace("<<<<<<< SEARCH\n", ""), "without its '<<<<<<< SEARCH'"),
        (HEAD + "```python\ndef f(:\n```", "does not parse: line 1"),
        (HEAD + f"```python\n{SOURCE}", "not closed"),
        (HEAD + "```\n```", "holds no edit"),
        (HEAD + "SET DEPTH = four", "the line 'SET DEPTH = four' is not 'SET KNOB = value'"),
        (HEAD + "SET DEPTH = 4 layers", "is not 'SET KNOB = value'"),
        (HEAD + "SET DEPTH =", "is not 'SET KNOB = value'"),
        (HEAD + "SET DEPTH to 4\n" + BLOCK, "the line 'SET DEPTH to 4' is not"),
        (HEAD + "SET DEPTH = 4\nSET DEPTH = 5", "DEPTH is set twice, to 4 and to 5"),
        (HEAD + "FUNCTION one\n" + ONE, "FUNCTION one is not followed by a fence"),
        (HEAD + "FUNCTION one", "FUNCTION one is not followed by a fence"),
        (HEAD + "FUNCTION one\n```\n" + ONE, "the fence after FUNCTION one is not closed"),
        (HEAD + "FUNCTION one\n```\ndef one(:\n```", "FUNCTION one: the definition does not parse: line 1"),
        (HEAD + f"FUNCTION one\n```\nimport os\n{ONE}```", "wants one whole def or class, and nothing else"),
        (HEAD + f"FUNCTION M.two\n```\n{ONE}```", "defines one; it wants the whole new M.two"),
        (HEAD + f"```\n{ONE}```\n```\n{ONE}```", "not clear what each replaces"),
        (HEAD + f"```\n{ONE}```\n```\nDEPTH = 4\n```", "not clear what each replaces"),
        (HEAD + f"```\n{ONE}```\n```\n(\n```", "not clear what each replaces"),
    ],
)
def test_answer_that_is_not_of_the_form_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as rejection:
        read_reply(text)

    assert reason in str(rejection.value)


@pytest.mark.parametrize(
    "start", ["", "SET A = 1", "SET", "FUNCTION", "TITLE", "```", "~~~", "<<<<<<< SEARCH", "======="]
)
@pytest.mark.parametrize("run", [" ", "~", "a", "*"])
def test_model_that_repeats_a_character_without_end_is_refused_at_once(start: str, run: str) -> None:
    with pytest.raises(Rejected):
        read_reply(f"{start}{run * 200_000}`!")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\tb\r\nc\x00\x1b[31m", "a b c [31m"),
        ("a\u2028b\u202ec\u200bd\ud800", "a b c d"),
        ("x" * 11, "x" * 9 + "…"),
        ("größer – 100 %", "größer –…"),
    ],
)
def test_a_line_for_a_table_is_clean_and_short(text: str, line: str) -> None:
    assert one_line(text, 10) == line


@given(
    st.lists(
        st.sampled_from([*MARKS, *HEAD.splitlines(), *BLOCK.splitlines(), *ONE.splitlines()]) | st.text(max_size=12),
        max_size=14,
    ),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_no_answer_raises_anything_but_the_two_refusals(lines: list[str], end: str) -> None:
    with suppress(BadLlmResponse, Rejected):
        reply = read_reply(end.join(lines))

        with suppress(EditError):
            apply_edits(SOURCE, reply.edits)
        assert reply.edits
        assert reply.title.isprintable()
        assert len(reply.words) <= HYPOTHESIS_CHARACTERS


@pytest.mark.parametrize(
    "edit", ["<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n", "SET A = 1\n\nFUNCTION f\n```\ndef f(): pass\n```\n"]
)
def test_an_answer_of_more_edits_than_matter_or_too_long_to_be_one_is_refused(edit: str) -> None:
    with pytest.raises(Rejected, match=f"more than {MOST_EDITS} edits"):
        read_reply(f"TITLE: t\nHYPOTHESIS: h\n{edit * (MOST_EDITS + 1)}")
    with pytest.raises(Rejected, match="write only what changes"):
        read_reply("x" * (LONGEST_CHARACTERS + 1))


def simply_closed_by(lines: list[str]) -> dict[int, int]:
    """The end of each fence as one would look for it by hand."""
    found = {}
    for position, line in enumerate(lines):
        if opening := FENCE.fullmatch(line):
            mark = opening.group(1)
            below = (
                at
                for at in range(position + 1, len(lines))
                if len(lines[at].strip()) >= len(mark) and set(lines[at].strip()) == {mark[0]}
            )
            found[position] = next(below, len(lines))
    return found


@given(
    st.lists(st.sampled_from(["```", "````", "~~~", "~~~~~", "```python", "~~~ x", "``", "text", "", " ``` ", "`~`"]))
)
def test_every_fence_ends_where_one_would_find_its_end_by_hand(lines: list[str]) -> None:
    page = Lines(lines, lambda line: line == "text")

    found = {at: fence for at in range(len(lines)) if (fence := page.fence_at(at)) is not None}

    assert {at: fence.end for at, fence in found.items()} == simply_closed_by(lines)
    for fence in found.values():
        inside = lines[fence.start + 1 : fence.end]
        assert page.has_mark(fence) is ("text" in inside)
        assert page.first_inside(fence) == next((line for line in inside if line.strip()), "")
