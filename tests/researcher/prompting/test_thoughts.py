"""What a model only thought is no part of its answer, in whichever tags, nested, never closed or never opened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.errors import ReasoningUsedUpOutput
from researcher.prompting.reply_parser import read_reply
from researcher.prompting.thoughts import with_thoughts, without_thoughts

HEAD = "TITLE: Deeper\nHYPOTHESIS: More layers learn more.\n"
ANSWER = HEAD + "SET DEPTH = 4\n"
DECOY = "\nSET DEPTH = 64\n"
TAGS = [
    ("<think>", "</think>"),
    ("<THINKING>", "</thinking >"),
    ('<thought time="3">', "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<antThinking>", "</antThinking>"),
    ("<analysis>", "</analysis>"),
    ("[REASONING]", "[/REASONING]"),
    ("<|think_start|>", "<|think_end|>"),
    ("<｜begin▁of▁thinking｜>", "<｜end▁of▁thinking｜>"),
    ("<unused94>thought\n", "<unused95>"),
]

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


@pytest.mark.parametrize(
    "begin",
    [
        '<details type="reasoning" done="true">',
        '<details type="thinking">',
        "<details open>\n<summary>Thought for 4 seconds</summary>",
        "<details><summary>Reasoning</summary>",
    ],
)
@given(weighed=thoughts, inside=st.sampled_from([DECOY, "<details>" + DECOY + "</details>", "</think>" + DECOY]))
def test_folded_thoughts_are_gone_with_the_folds_inside_them_and_other_folds_stay(
    weighed: str, inside: str, begin: str
) -> None:
    folded = f"{begin}\n{weighed}{inside}{weighed}</details>\n"
    other = f"<details><summary>All of it</summary>\n{ANSWER}</details>\n"

    assert without_thoughts(folded + ANSWER).strip() == ANSWER.strip()
    assert without_thoughts(folded + other).strip() == other.strip()


@pytest.mark.parametrize(
    ("begin", "answer", "end"),
    [
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", "<|return|>"),
        ("<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>json<|message|>", ""),
        ("<|channel|>commentary to=functions.edit<|message|>", "<|call|><|channel|>final<|message|>", "<|end|>\n"),
        ("analysis", "assistantfinal", ""),
        ("<|think|>", "<|end|><|begin|>assistant<|content|>", "<|end|>"),
        ("<|begin_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),
        ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]\n", "[END FINAL RESPONSE]\n<|end|>"),
        ("Here is my thought process:\n", "\nHere is my response:\n", ""),
        ("<think>", "</think><|begin_of_box|>", "<|end_of_box|>"),
        ("<|START_THINKING|>", "<|END_THINKING|><|START_TEXT|>", "<|END_TEXT|>"),
    ],
)
@given(weighed=thoughts)
def test_where_the_answer_is_marked_all_before_the_mark_is_thought(
    weighed: str, begin: str, answer: str, end: str
) -> None:
    for text in (f"{begin}{weighed}{DECOY}{answer}{ANSWER}{end}", f"{weighed}{DECOY}<think>{answer}{ANSWER}{end}"):
        assert without_thoughts(text).strip() == ANSWER.strip()
        assert without_thoughts(with_thoughts(f"{DECOY}{answer}{DECOY}", text)).strip() == ANSWER.strip()


@pytest.mark.parametrize(
    ("before", "end"),
    [
        ("Thinking...\n{}\n...done thinking.\n", ""),
        ("{}\n<answer>\n", "</answer>\n"),
        ("<think>{}</think>\n<response>", "</response>"),
    ],
)
@given(weighed=thoughts)
def test_where_a_line_or_a_tag_begins_the_answer_all_before_it_is_thought(before: str, end: str, weighed: str) -> None:
    assert without_thoughts(f"{before.format(weighed + DECOY)}{ANSWER}{end}").strip() == ANSWER.strip()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("## Thinking\n", "## Answer\n"),
        ("> Thinking\n> ", "\n"),
        ("<plan>\n", "</plan>"),
        ("<!-- ", "\n-->\n"),
        ("```thinking\n", "```\n"),
        ("Draft:\n```python\n", "```\n"),
    ],
)
@pytest.mark.parametrize("weighed", [HEAD.replace("Deeper", "No") + DECOY, DECOY, DECOY + HEAD + "SET DEPTH = 3\n"])
def test_what_stands_before_the_last_title_with_edits_was_only_thought_in_any_wrapper(
    begin: str, end: str, weighed: str
) -> None:
    assert read_reply(f"{begin}{weighed}\n{end}{ANSWER}") == read_reply(ANSWER)


@pytest.mark.parametrize("name", ["thinking", "Think", " reasoning "])
def test_a_fence_of_thoughts_is_no_edit_without_a_title_either(name: str) -> None:
    assert read_reply(f"```{name}\n{DECOY}```\nSET DEPTH = 4\n").edits == read_reply(ANSWER).edits


@pytest.mark.parametrize(
    "end", ["TITLE: Deeper\n", HEAD, f"{HEAD}```\nDEPTH is 4 now\n```\n", f"{HEAD}I hope that it helps.\n"]
)
def test_a_title_below_the_edits_is_theirs(end: str) -> None:
    reply = read_reply(f"SET DEPTH = 4\n{end}")

    assert (reply.title, reply.edits) == ("Deeper", read_reply(ANSWER).edits)


@pytest.mark.parametrize("begin", ["<|channel|>analysis<|message|>", '<details type="reasoning">', "<think a=1>"])
def test_answer_that_never_came_after_its_thoughts_is_none(begin: str) -> None:
    with pytest.raises(ReasoningUsedUpOutput):
        read_reply(f"{begin}{ANSWER}<|end|>")


@pytest.mark.parametrize(
    "text",
    [
        "a < think > b",
        "x[think]",
        "<thinker>",
        "x = y[THINKER]",
        "<details>open</details>",
        "assistantfinally",
        'end = "<|end|>"\n',
        "a <think/> b",
        "# Here is my response: 3",
        'NAME = "<answer>"\n',
        "# ...done thinking.",
        "x[THINKING_STEPS]",
    ],
)
def test_code_is_no_thought(text: str) -> None:
    assert without_thoughts(text) == text
