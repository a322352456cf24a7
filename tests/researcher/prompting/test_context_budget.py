"""The context is shared between question and answer, a longer answer takes none of what train.py needs, and a question
that its server cut is noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from researcher.errors import BadLlmResponse, PromptTruncated
from researcher.llm.client import Answer, Message
from researcher.prompting.context_budget import Window
from researcher.prompting.prompt import prompt_tokens
from tests.doubles.ollama_replay import RECORDINGS, exchanges


def counted(prompt_tokens: int | None, *, counts_cached: bool = True) -> Answer:
    return Answer("", "", "stop", prompt_tokens, 1, 1.0, counts_cached)


def filling(room: int, least: int = 0) -> Sequence[Message]:
    if room < least:
        raise BadLlmResponse("does not fit")
    return [Message("user", "ab " * (room - 16))]


def test_an_answer_gets_twice_its_share_once_and_the_question_gives_way() -> None:
    window = Window(8000, 1000)
    before = window.question(filling)

    assert [window.widen(), window.widen()] == [True, False]

    after = window.question(filling)
    assert (prompt_tokens(before), prompt_tokens(after)) == (7000, 6000)
    assert (window.answer_tokens(before), window.answer_tokens(after)) == (1000, 2000)


def test_what_train_py_needs_is_not_taken_for_a_longer_answer() -> None:
    window = Window(8000, 1000)
    window.widen()

    question = window.question(lambda room: filling(room, 6500))

    assert window.answer_tokens(question) == 1000
    with pytest.raises(BadLlmResponse, match="does not fit"):
        window.question(lambda room: filling(room, 7500))


def test_the_longer_answer_is_as_long_as_the_context_has_room() -> None:
    window = Window(8000, 1000)
    window.widen()

    assert window.answer_tokens(filling(6500)) == 1500


def test_of_all_recorded_prompts_only_those_that_were_cut_are_taken_for_it() -> None:
    found: dict[str, bool] = {}
    for recording in RECORDINGS.glob("*.json"):
        for exchange in exchanges(recording.stem):
            asked, words = exchange["request"]["body"] or "", exchange["response"].get("body") or ""
            last = words.strip().splitlines()[-1] if words.strip() else ""
            if '"prompt_eval_count"' in last and asked.startswith("{"):
                body, answer = json.loads(asked), json.loads(last)
                texts = [body["prompt"]] if "prompt" in body else [m["content"] for m in body["messages"]]
                found[recording.stem] = found.get(recording.stem) or is_cut(texts, answer["prompt_eval_count"])

    assert {case for case, cut in found.items() if cut} == {"prompt-too-long-default", "chat-too-long-one-message"}
    assert len(found) > 5


def is_cut(texts: Sequence[str], count: int) -> bool:
    try:
        Window(100_000, 1000).learn([Message("user", text) for text in texts], counted(count))
    except PromptTruncated:
        return True
    return False


def test_a_count_that_may_leave_out_what_was_read_before_or_is_missing_says_nothing() -> None:
    question = [Message("user", "word " * 500)]

    Window(8000, 1000).learn(question, counted(20, counts_cached=False))
    Window(8000, 1000).learn(question, counted(None))
    with pytest.raises(PromptTruncated, match=r"counted 20 tokens in a question of 500 words: .* at least 8000 tokens"):
        Window(8000, 1000).learn(question, counted(20))


@pytest.mark.parametrize(
    ("counts", "room"),
    [
        ([], 7000),
        ([0.68], 10_000),  # 0.7 in steps of 0.05
        ([0.68, 0.72], 9_333),
        ([1.5], 4_666),
        ([1.5, 0.7, 0.7, 0.7, 0.7], 4_666),
        ([1.5, 0.7, 0.7, 0.7, 0.7, 0.7], 10_000),
        ([0.2], 14_000),
    ],
)
def test_the_room_follows_the_highest_of_the_latest_counts_both_ways(counts: list[float], room: int) -> None:
    window, question = Window(8000, 1000), [Message("user", "ab" * 3000)]

    for ratio in counts:
        window.learn(question, counted(int(ratio * prompt_tokens(question))))

    rooms: list[int] = []
    window.question(lambda free: rooms.append(free) or question)  # type: ignore[func-returns-value]
    assert rooms == [pytest.approx(room, abs=1)]


def test_a_server_that_leaves_cached_tokens_out_corrects_upwards_only() -> None:
    window, question = Window(8000, 1000), [Message("user", "ab" * 3000)]

    rooms: list[int] = []
    for ratio in (0.6, 1.2):
        window.learn(question, counted(int(ratio * prompt_tokens(question)), counts_cached=False))
        window.question(lambda free: rooms.append(free) or question)  # type: ignore[func-returns-value]

    assert rooms == [7000, 5833]
