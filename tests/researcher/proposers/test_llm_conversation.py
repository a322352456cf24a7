"""The LLM as a proposer, over HTTP against the double: every answer ends as a draft, good or refused, with its cost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.errors import LlmUnavailable, Rejected, ResearcherError
from researcher.llm.client import Answer, Message
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.prompting.prompt import Advice, PromptContext, prompt_tokens
from researcher.proposers.draft import Draft
from researcher.proposers.llm_conversation import MOST_RESUMES, Conversation, parse_and_validate
from researcher.source.proposal import EditFormat, Proposal, ProposerName, SearchReplace, SetKnobs
from researcher.source.validation import validate
from tests import ROOT, TESTS
from tests.doubles.ollama_server import OllamaDouble, Script, Turn, ollama_double

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()
CONTEXT = PromptContext("Lower the score.", "profile cpu", SOURCE, "The incumbent scores 1.812.", ("1 discard: x",))
HEAD = "TITLE: Deeper\nHYPOTHESIS: More layers learn more.\n"


def block(search: str, replace: str) -> str:
    return f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


DEPTH_LINE = "DEPTH = 2  # layers; range 1..8"
GOOD = HEAD + block(DEPTH_LINE, "DEPTH = 4  # layers; range 1..8")
FORWARD = "def forward(self, x):\n    return self.head(torch.relu(self.embed(x)))\n"
DECOY = HEAD + block(DEPTH_LINE, "DEPTH = 8  # layers; range 1..8")


def propose(script: Script, context: PromptContext = CONTEXT, **changes: Any) -> tuple[Draft, OllamaDouble]:
    with ollama_double(script) as server:
        settings = OllamaSettings(server.url, "small", **{"num_ctx": 8192, "num_predict": 1024, **changes})
        draft = Conversation(OllamaClient(settings)).propose(context, lambda: None, vet)
    return draft, server


def vet(proposal: Proposal) -> Draft:
    return Draft(proposal, validate(proposal, SOURCE, lambda _: None))


class OtherTokens:
    """A server whose vocabulary needs `ratio` times the estimated tokens."""

    def __init__(self, client: OllamaClient, ratio: float) -> None:
        self._client = client
        self._ratio = ratio
        self.url, self.model = client.url, client.model
        self.context_tokens, self.answer_tokens = client.context_tokens, client.answer_tokens

    def chat(self, messages: Sequence[Message], tick: Callable[[], None], **asked: Any) -> Answer:
        return replace(
            self._client.chat(messages, tick, **asked), prompt_tokens=int(self._ratio * prompt_tokens(messages))
        )


def test_good_answer_becomes_a_proposal_with_its_cost() -> None:
    draft, server = propose([GOOD])

    proposal = draft.proposal
    assert draft.rejected is None
    assert (proposal.proposer, proposal.hypothesis) == ("llm", "Deeper: More layers learn more.")
    assert proposal.title == "line 6: DEPTH = 2 # layers; range 1..8 -> DEPTH = 4 # layers; range 1..8"
    assert proposal.edits == (SearchReplace(DEPTH_LINE + "\n", "DEPTH = 4  # layers; range 1..8\n"),)
    assert proposal.cost is not None
    assert (proposal.cost.endpoint, proposal.cost.model, proposal.cost.calls) == (server.url, "small", 1)
    assert proposal.cost.prompt_tokens is not None
    assert proposal.cost.prompt_tokens > 500
    assert proposal.cost.answer_tokens
    assert [exchange.fault for exchange in draft.exchanges] == [None]
    assert draft.exchanges[0].reply == GOOD
    assert SOURCE in draft.exchanges[0].prompt
    assert Proposal.from_json(proposal.to_json()) == proposal


@pytest.mark.parametrize(
    ("text", "edit_formats", "stage"),
    [
        (GOOD, ("search",), None),
        (HEAD + "SET DEPTH = 4", ("set",), None),
        (f"{HEAD}SET DEPTH = 4\nFUNCTION Model.forward\n```\n{FORWARD}```", ("set", "function"), None),
        (f"{HEAD}```python\n{FORWARD}```", ("function",), None),
        (HEAD + "```\n" + SOURCE.replace("DEPTH = 2", "DEPTH = 3") + "```", ("file",), None),
        ("SET DEPTH = 4\n" + block("x", "y"), ("set", "search"), "apply"),
        (HEAD + "FUNCTION Model.forward\nreturn x", ("function",), "parse"),
        (f"<think>{DECOY}</think>I would rather not", (), "parse"),
        (HEAD + "```\nimport (", ("file",), "parse"),
        (HEAD + "SET DEPTH = 9", ("set",), None),
        (HEAD + "SET WIDTH = 9", ("set",), "apply"),
        ("```\nDEPTH = 4\n```", ("set",), None),
        (HEAD + "```\nx = 1\n```", ("file",), "validate"),
    ],
)
def test_answer_is_noted_with_the_edit_formats_it_tried_and_where_it_failed(
    text: str, edit_formats: tuple[str, ...], stage: str | None
) -> None:
    proposal, found = parse_and_validate(text, SOURCE, vet, cut=False)

    (attempt,) = proposal.attempts
    assert (attempt.edit_formats, attempt.failed) == (edit_formats, stage)
    assert isinstance(found, ResearcherError) == (stage is not None)
    assert Proposal.from_json(proposal.to_json()) == proposal


@given(
    st.lists(
        st.sampled_from(["SET DEPTH = 4", "SET SEED = 1", "SET NAME = 'x'", 'SET WINDOW_PATTERN = "L"', "```"])
        | st.sampled_from([f"FUNCTION Model.forward\n```\n{FORWARD}```", f"```\n{FORWARD}```", "def f(: pass"])
        | st.builds(block, st.sampled_from(SOURCE.splitlines()), st.sampled_from(SOURCE.splitlines()) | st.text())
        | st.text(max_size=20),
        max_size=5,
    )
)
def test_whatever_a_model_writes_ends_as_a_proposal_or_a_fault_in_words(parts: list[str]) -> None:
    proposal, found = parse_and_validate(HEAD + "\n".join(parts), SOURCE, vet, cut=False)

    assert isinstance(found, ResearcherError) == (proposal.attempts[0].failed is not None)
    assert str(found) != ""


def test_both_answers_count_where_the_first_was_repaired() -> None:
    draft, _ = propose([Turn(HEAD + block("x", "y"), length=True), GOOD])

    assert [exchange.cut for exchange in draft.exchanges] == [True, False]
    assert [(attempt.edit_formats, attempt.failed) for attempt in draft.proposal.attempts] == [
        (("search",), "parse"),
        (("search",), None),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("I cannot do that.", "the answer holds no edit"),
        (HEAD + block("DEPTH = 3  # layers", "DEPTH = 4"), "does not stand in train.py"),
        (HEAD + block(DEPTH_LINE, "DEPTH = (4"), "does not parse: line 6: '(' was never closed: DEPTH = (4"),
        (HEAD + block(DEPTH_LINE, DEPTH_LINE + " more"), "only comments"),
        (HEAD + "```python\nx = 1\n```", "must keep the call of evaluate_bpb()"),
        (Turn(DECOY, length=True), "the answer was cut off"),
    ],
)
def test_bad_answer_gets_one_repair_turn_with_its_real_error(bad: str | Turn, reason: str) -> None:
    draft, server = propose([bad, GOOD])

    turns = server.asked[1]["messages"]
    assert draft.rejected is None
    assert "DEPTH = 4" in str(draft.proposal.edits)
    assert draft.proposal.cost is not None
    assert draft.proposal.cost.calls == len(draft.exchanges) == 2
    assert turns[:2] == server.asked[0]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == (bad.text if isinstance(bad, Turn) else bad).strip()
    assert reason in turns[3]["content"]
    assert reason in str(draft.exchanges[0].fault)


def test_answer_that_stays_bad_is_refused_after_one_repair() -> None:
    draft, server = propose([HEAD + block("nowhere", "x"), HEAD + block("nor here", "x"), GOOD])

    assert draft.rejected is not None
    assert "does not stand in train.py" in draft.rejected
    assert draft.proposal.title == "nor here -> x"
    assert len(server.asked) == len(draft.exchanges) == 2


def test_edit_weighed_in_thoughts_is_not_applied_and_not_quoted_back() -> None:
    draft, server = propose([f"<think>{DECOY}</think>no idea", f"<think>{DECOY}</think>{GOOD}"])

    assert draft.rejected is None
    assert "DEPTH = 4" in str(draft.proposal.edits)
    assert server.asked[1]["messages"][2]["content"] == "no idea"
    assert DECOY in draft.exchanges[0].reply, "what is stored is what was said"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (Turn(""), "the answer is empty"),
        (Turn(GOOD, "server_error"), "refused the question (500)"),
        (Turn(GOOD, "error_line"), "broke off with: an error was encountered"),
        (Turn(GOOD, "drop_mid_stream"), "broke off in the middle"),
        (Turn(GOOD, "no_done"), "without saying `done`"),
        (Turn(GOOD, "garbage_line"), "is not JSON"),
    ],
)
def test_no_answer_is_a_draft_without_a_second_call_and_only_an_empty_answer_is_the_models_fault(
    turn: Turn, reason: str
) -> None:
    draft, server = propose([turn])

    assert reason in str(draft.unanswered if turn.fault else draft.rejected)
    assert draft.proposal.edits == ()
    assert draft.proposal.cost is not None
    assert draft.proposal.cost.calls == len(draft.exchanges) == len(server.asked) == 1


LONG = "hm " * 100  # more than the first 64 tokens, less than twice of them


def test_thoughts_that_eat_the_answer_get_one_second_try_with_room_that_stays_for_the_run() -> None:
    with ollama_double([Turn(GOOD, thoughts=LONG)]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192, num_predict=64)))
        first, second = (proposer.propose(CONTEXT, lambda: None, vet) for _ in range(2))

    assert [body["options"].pop("num_predict") for body in server.asked] == [64, 128, 128]
    assert len({body["options"].pop("seed") for body in server.asked}) == 3
    assert "answered this question before, 1 times" in server.asked[2].pop("messages")[1]["content"]
    assert server.asked[0].pop("messages") == server.asked[1].pop("messages")
    assert server.asked[0] == server.asked[1] == server.asked[2], "whatever else differed could reload the model"
    assert [exchange.fault for exchange in first.exchanges] == ["the answer is empty but for its thoughts", None]
    assert (first.rejected, first.exchanges[0].cut, len(second.exchanges)) == (None, True, 1)
    assert first.proposal.cost is not None
    assert first.proposal.cost.calls == 2
    assert 64 + 100 < (first.proposal.cost.answer_tokens or 0) <= 64 + 128


def test_thoughts_that_never_end_are_not_paid_for_twice_again() -> None:
    with ollama_double([Turn(GOOD, thoughts=10 * LONG)]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192, num_predict=64)))
        calls = [len(proposer.propose(CONTEXT, lambda: None, vet).exchanges) for _ in range(3)]

    assert calls == [2, 1, 1]


@pytest.mark.parametrize("turn", [Turn(GOOD, "thoughts_only"), Turn(f"<think>{DECOY}"), Turn(f"{DECOY}</think>")])
def test_an_answer_of_thoughts_alone_is_asked_for_once_more_in_the_same_words(turn: Turn) -> None:
    draft, server = propose([turn, GOOD])

    assert draft.rejected is None
    assert "DEPTH = 4" in str(draft.proposal.edits)
    assert server.asked[0]["messages"] == server.asked[1]["messages"]


def test_edit_weighed_in_the_field_for_thoughts_is_not_applied() -> None:
    draft, _ = propose([Turn(GOOD, thoughts=DECOY), "must not be asked for"])

    assert draft.rejected is None
    assert "DEPTH = 4" in str(draft.proposal.edits)
    assert parse_and_validate(draft.exchanges[0].reply, SOURCE, vet, cut=False)[0].edits == draft.proposal.edits


def test_where_it_cannot_be_asked_again_the_first_fault_counts() -> None:
    draft, _ = propose([Turn(GOOD, "thoughts_only"), Turn(fault="busy")])

    assert draft.rejected == "the answer is empty but for its thoughts"


def test_answer_to_a_question_that_the_server_cut_is_no_answer() -> None:
    draft, _ = propose([Turn(GOOD, counts=200)])

    assert "it cut the question silently" in str(draft.unanswered)
    assert draft.proposal.cost is not None
    assert (draft.proposal.cost.calls, draft.proposal.cost.prompt_tokens) == (1, 200)


MOVE = '{"title": "Deeper", "hypothesis": "More layers learn more.", "set": {"DEPTH": 4}}'


@pytest.mark.parametrize("bad", ["I would make it deeper.", HEAD + "SET WIDTH = 9", HEAD + "SET DEPTH = 2"])
def test_model_that_wrote_no_code_is_held_to_a_change_of_knobs(bad: str) -> None:
    draft, server = propose([bad, MOVE])

    assert draft.rejected is None
    assert draft.proposal.edits == (SetKnobs({"DEPTH": 4}),)
    assert "format" not in server.asked[0]
    (depth,) = (
        one["properties"]["DEPTH"]["enum"]
        for one in server.asked[1]["format"]["properties"]["set"]["anyOf"]
        if "DEPTH" in one["properties"]
    )
    assert depth == [1, 3, 4, 5, 6, 7, 8], "every value but that of now"
    assert [attempt.edit_formats for attempt in draft.proposal.attempts][1] == (EditFormat.JSON,)
    assert "answer with JSON and nothing else" in server.asked[1]["messages"][3]["content"]


@pytest.mark.parametrize(
    ("bad", "changes"),
    [
        (HEAD + "FUNCTION Model.forward\nreturn x", {}),
        (HEAD + block("nowhere", "x"), {}),
        ("I cannot do that.", {"idea": "Use another optimiser."}),
        ("I cannot do that.", {"edit_formats": (EditFormat.SEARCH,)}),
        ("I cannot do that.", {"source": SOURCE.replace("range ", "").replace("one of ", "")}),
    ],
)
def test_who_showed_code_or_may_not_set_knobs_is_repaired_in_the_free_form(bad: str, changes: Any) -> None:
    _, server = propose([bad, GOOD], replace(CONTEXT, **changes))

    assert "format" not in server.asked[1]


@pytest.mark.parametrize("fault", ["model_missing", "busy", "drop_before_stream"])
def test_server_that_cannot_be_asked_is_away(fault: Any) -> None:
    with pytest.raises(LlmUnavailable):
        propose([Turn(fault=fault)])


def test_server_that_goes_away_before_the_repair_leaves_a_refused_draft() -> None:
    draft, _ = propose(["no idea", Turn(fault="busy")])

    assert draft.rejected is not None
    assert "holds no edit" in draft.rejected
    assert "503" not in draft.rejected, "the next prompt shows it, and the server's fault is not the LLM's"
    assert draft.proposal.cost is not None
    assert draft.proposal.cost.calls == 1


def test_source_that_does_not_fit_the_context_is_never_sent() -> None:
    with ollama_double([GOOD]) as server:
        small = OllamaSettings(server.url, "small", num_ctx=1500, num_predict=1024)
        with pytest.raises(LlmUnavailable, match="raise NUM_CTX by"):
            Conversation(OllamaClient(small)).propose(CONTEXT, lambda: None, vet)

    assert server.asked == []


@pytest.mark.parametrize("ratio", [1.5, 0.7])
def test_prompts_follow_what_the_server_counted_and_another_model_has_an_estimate_of_its_own(ratio: float) -> None:
    context = replace(CONTEXT, history=tuple(f"{number} discard: no gain" for number in range(4000)))
    with ollama_double([GOOD]) as server:
        client = OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192, num_predict=1024))
        proposer, other = Conversation(OtherTokens(client, ratio)), Conversation(client)
        for each in (proposer, proposer, other):
            each.propose(context, lambda: None, vet)

    first, second, of_other = (sum(len(turn["content"]) for turn in body["messages"]) for body in server.asked)
    assert second / first == pytest.approx(1 / ratio, abs=0.05), "a block of lines more or less"
    assert of_other == first


def test_question_that_is_too_long_by_a_token_makes_the_next_one_shorter() -> None:
    context = replace(CONTEXT, history=tuple(f"{number} discard: no gain" for number in range(4000)))
    with ollama_double([Turn(GOOD, "one_token_over"), GOOD]) as server:
        client = OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192, num_predict=1024))
        proposer = Conversation(client)
        refused, answered = (proposer.propose(context, lambda: None, vet) for _ in range(2))

    first, second = (sum(len(turn["content"]) for turn in body["messages"]) for body in server.asked)
    assert "exceeds the available context size" in str(refused.unanswered)
    assert answered.rejected is None
    assert second / first == pytest.approx(0.85, abs=0.04), "a block of lines more or less"


def test_answer_that_takes_a_comment_of_the_view_for_code_is_refused() -> None:
    answer = HEAD + block("# [lines 3-9 are not shown]", "pass")

    draft, _ = propose([answer, answer])

    assert "'# [lines 3-9 are not shown]', which stands for lines of train.py that you cannot see" in str(
        draft.rejected
    )


def test_reason_of_the_caller_is_what_the_model_is_told() -> None:
    def tried_before(_: Proposal) -> Draft:
        raise Rejected("the same code was tried before (experiment 12: discard, 1.812)")

    with ollama_double([GOOD]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small")))
        draft = proposer.propose(CONTEXT, lambda: None, tried_before)

    assert "experiment 12: discard, 1.812" in server.asked[1]["messages"][3]["content"]
    assert draft.rejected == "the same code was tried before (experiment 12: discard, 1.812)"


def test_double_nudges_in_json_where_a_schema_asks_for_it_and_in_a_repair() -> None:
    knob = "MATRIX_LR = 0.04  # range 0.005..0.2 log"
    advice, adviser = Advice((knob,), "DEPTH 2 -> 3"), ProposerName.ADVISER
    advised = replace(CONTEXT, advice=advice, edit_formats=(EditFormat.JSON,), proposer_name=adviser)

    drafts = [
        propose([Turn(nudge="MATRIX_LR", by=1.5)], advised)[0],
        propose(["{", Turn(nudge="MATRIX_LR", by=1.5)], advised)[0],
        propose(["Hm.", Turn(nudge="MATRIX_LR", by=1.5)])[0],
    ]

    assert [draft.rejected for draft in drafts] == [None] * 3
    assert [draft.proposal.edits for draft in drafts] == [(SetKnobs({"MATRIX_LR": 0.06}),)] * 3
    assert [draft.proposal.proposer for draft in drafts] == ["adviser", "adviser", "llm"]


def test_double_runs_as_a_script_and_nudges_knobs_of_the_train_py_it_is_shown(tmp_path: Path) -> None:
    script = tmp_path / "replies.json"
    script.write_text(json.dumps([{"nudge": "MATRIX_LR", "by": 1.5}, GOOD]))
    command = [sys.executable, "-m", "tests.doubles.ollama_server", "--port", "0", "--script", str(script)]
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as double:
        assert double.stdout is not None
        url = double.stdout.readline().strip()
        proposer = Conversation(OllamaClient(OllamaSettings(url, "small")))

        drafts = [proposer.propose(CONTEXT, lambda: None, vet) for _ in range(2)]
        double.send_signal(signal.SIGTERM)

        assert double.wait(20) == 0
    assert [draft.rejected for draft in drafts] == [None, None]
    assert "MATRIX_LR = 0.06  # range" in str(drafts[0].proposal.edits)


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("SET DEPTH = 4\nSET MATRIX_LR = 0.1", "DEPTH 2 -> 4, MATRIX_LR 0.04 -> 0.1"),
        ("SET DEPTH = 9", "DEPTH 2 -> 8 (moved into its range)"),
        ("SET WIDTH = 9", "WIDTH unknown -> 9"),
        (block("nowhere", "x = 1"), "nowhere -> x = 1"),
        (f"FUNCTION Model.forward\n```\n{FORWARD}```", "Model.forward: "),
    ],
)
def test_titles_say_what_moved_and_the_models_words_are_its_hypothesis(answer: str, title: str) -> None:
    proposal, _ = parse_and_validate("TITLE: Less of it\nHYPOTHESIS: it helps\n" + answer, SOURCE, vet, cut=False)

    assert proposal.title.startswith(title)
    assert proposal.hypothesis == "Less of it: it helps"


def test_an_answer_without_an_edit_counts_for_the_formats_it_was_offered() -> None:
    draft, _ = propose(["Hm."] * 2, replace(CONTEXT, edit_formats=(EditFormat.SEARCH, EditFormat.FUNCTION)))

    (first, second) = draft.proposal.attempts
    assert first.edit_formats == second.edit_formats == (EditFormat.SEARCH, EditFormat.FUNCTION)


def test_no_answered_question_is_asked_again_as_it_was_and_refusals_are_sampled_warmer() -> None:
    with ollama_double(["Hm.", "Hm."], model="small:4b") as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small:4b", num_ctx=8192)))
        drafts = [proposer.propose(CONTEXT, lambda: None, vet) for _ in range(4)]

    assert [draft.rejected is not None for draft in drafts] == [True] * 4
    assert len(server.asked) == 4, "a small model has no repair turn"
    assert len({json.dumps(body["messages"]) for body in server.asked}) == 4
    assert len({body["options"]["seed"] for body in server.asked}) == 4
    sampled = [round(body["options"]["temperature"], 3) for body in server.asked]
    assert sampled == [0.7, 0.9, 1.1, 1.1]


def test_a_question_that_the_server_interrupted_is_asked_again_as_it_was_while_it_asks_for_the_same() -> None:
    later = replace(CONTEXT, history=(*CONTEXT.history, "2 discard: y"))
    with ollama_double([Turn(GOOD, "drop_mid_stream"), Turn(GOOD, "hang"), GOOD, GOOD]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192, first_s=0.3)))
        interrupted = proposer.propose(CONTEXT, lambda: None, vet)
        with pytest.raises(LlmUnavailable):
            proposer.propose(later, lambda: None, vet)
        for context in (later, later):
            proposer.propose(context, lambda: None, vet)

    first, second, third, fourth = (body["messages"] for body in server.asked)
    assert interrupted.unanswered is not None
    assert first == second == third
    assert "2 discard: y" in fourth[1]["content"]


def test_a_question_that_stays_interrupted_gives_way_to_a_new_one() -> None:
    contexts = [replace(CONTEXT, history=(f"{number} discard: x",)) for number in range(6)]
    with ollama_double([Turn(GOOD, "drop_mid_stream")]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192)))
        for context in contexts:
            proposer.propose(context, lambda: None, vet)

    asked = [json.dumps(body["messages"]) for body in server.asked]
    assert [text == asked[0] for text in asked] == [True] * (1 + MOST_RESUMES) + [False] * 2


def test_a_question_that_no_server_took_is_not_resumed() -> None:
    later = replace(CONTEXT, history=(*CONTEXT.history, "2 discard: y"))
    with ollama_double([Turn(fault="busy"), GOOD]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192)))
        with pytest.raises(LlmUnavailable):
            proposer.propose(CONTEXT, lambda: None, vet)
        proposer.propose(later, lambda: None, vet)

    assert "2 discard: y" in server.asked[-1]["messages"][1]["content"]


def test_a_small_model_may_repair_what_a_user_asked_for() -> None:
    with ollama_double(["Hm.", GOOD], model="small:4b") as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small:4b", num_ctx=8192)))
        draft = proposer.propose(replace(CONTEXT, idea="Go deeper."), lambda: None, vet)

    assert draft.rejected is None


def test_a_repair_in_json_cannot_repeat_what_was_refused() -> None:
    def vet(proposal: Proposal) -> Draft:
        if proposal.edits == (SetKnobs({"DEPTH": 4}),):
            raise Rejected("the same code was tried before")
        return Draft(proposal, validate(proposal, SOURCE, lambda _: None))

    with ollama_double([HEAD + "SET DEPTH = 4", MOVE.replace("4", "5")]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192)))
        draft = proposer.propose(replace(CONTEXT, closed=frozenset({("DEPTH", 6)})), lambda: None, vet)

    listed = json.dumps(server.asked[1]["format"])
    assert '{"DEPTH": {"enum": [1, 3, 5, 7, 8]}}' in listed
    assert draft.proposal.edits == (SetKnobs({"DEPTH": 5}),)


def test_an_interrupted_question_about_another_train_py_is_not_asked_again() -> None:
    other = replace(CONTEXT, source=SOURCE.replace("DEPTH = 2", "DEPTH = 3"))
    with ollama_double([Turn(GOOD, "drop_mid_stream"), GOOD]) as server:
        proposer = Conversation(OllamaClient(OllamaSettings(server.url, "small", num_ctx=8192)))
        for context in (CONTEXT, other):
            proposer.propose(context, lambda: None, vet)

    assert "DEPTH = 3" in server.asked[1]["messages"][1]["content"]
