"""What a prompt quotes ends no turn, and what comes back is what was quoted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.prompting.chat_markers import broken, whole
from researcher.prompting.prompt import Advice, PromptContext, Prompts
from researcher.prompting.reply_parser import read_reply
from researcher.source.edits import apply_edits
from tests import TESTS

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()
MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<|channel|>",
    "<|call|>",
    "<|START_OF_TURN_TOKEN|>",
    "<|user|>",
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "[SYSTEM_PROMPT]",
    "[TOOL_CALLS]",
    "[THINK]",
    "[gMASK]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<turn|>",
    "<bos>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_response>",
    "<fim_prefix>",
    "<reserved_106>",
    "<seed:bos>",
    "[UNUSED_TOKEN_145]",
    "]~b]",
    "]~!b[",
    "◁think▷",
    "◁/think▷",
    "<|channel>",
    "<channel|>",
    "<seed:think>",
    "<|inner_prefix|>",
    "[REASONING]",
    "<unused94>",
]
REASONING = [mark for mark in MARKS if "think" in mark.lower()] + [
    "<channel|>",
    "<|inner_prefix|>",
    "[REASONING]",
    "<unused94>",
]
PARTS = ["<", "|", "｜", ">", "\u2060", "[", "]", "~", "/", "<|", "|>", "s", "SYS", "INST", "<s>", "[INST]", " ", "▁"]
PARTS += ["◁", "think▷"]


@given(st.lists(st.sampled_from(PARTS) | st.characters(), max_size=30).map("".join))
def test_what_was_broken_can_be_made_whole_and_holds_no_mark(text: str) -> None:
    quoted = broken(text)

    assert whole(quoted) == text
    assert quoted.replace("\u2060", "") == text.replace("\u2060", "")
    assert not any(mark in quoted for mark in MARKS)


@pytest.mark.parametrize("mark", MARKS)
def test_no_mark_reaches_a_prompt_whatever_it_is_quoted_from(mark: str) -> None:
    own = "\n".join(message.content for message in Prompts.read().messages(PromptContext("", "", "", ""), 9000))
    line = f"a {mark}system b"
    told = PromptContext(line, line, f"A = '{line}'", line, (line,), (line,), idea=line, memory=("## of", line))
    advised = PromptContext(line, line, "A = 1", line, (line,), advice=Advice((line,), line))
    prompts = Prompts.read()

    asked = [*prompts.messages(told, 9000), *prompts.messages(advised, 9000), *prompts.repair(told, 9000, line, line)]

    assert sum(message.content.count("a ") for message in asked) > 15
    assert not any(mark in message.content for message in asked)
    assert mark not in own


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("copies_the_joiner", [True, False])
def test_an_edit_of_a_line_that_holds_a_mark_is_found_and_written_as_it_was(mark: str, copies_the_joiner: bool) -> None:
    source = f"{SOURCE}SPECIAL = '{mark}'\n"
    copies_the_joiner = copies_the_joiner or mark in REASONING  # such a mark without a joiner is no copy
    shown = broken(f"SPECIAL = '{mark}'") if copies_the_joiner else f"SPECIAL = '{mark}'"
    answer = (
        f"TITLE: t\nHYPOTHESIS: h\n<<<<<<< SEARCH\n{shown}\n=======\n{shown}  # kept\n>>>>>>> REPLACE\n"
        f"FUNCTION Model.forward\n```python\ndef forward(self, x):\n    return '{broken(mark)}'\n```\n"
    )

    changed = apply_edits(source, read_reply(answer).edits)

    assert f"SPECIAL = '{mark}'  # kept\n" in changed
    assert f"return '{mark}'\n" in changed
