"""A secret that stands where a model is told of it is in no question, and one in an answer in nothing that is kept."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from researcher.journal.reader import JournalReader
from researcher.journal.records import Goal
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.loop.loop import run_until_goal
from researcher.optimizer.optimizer import Optimizer
from researcher.prompting.prompt import Advice, PromptContext, Prompts
from researcher.proposers.llm_conversation import Conversation
from researcher.proposers.llm_proposer import Vetting
from researcher.proposers.proposers import Proposers
from researcher.proposers.schedule import Mix
from services.machine.subject import render_subject
from services.redis.server import RedisServer
from tests.doubles.ollama_server import Turn, ollama_double
from tests.fixtures.journal_story import accepted
from tests.fixtures.loop_in_process import opened
from tests.fixtures.scripted_run import FILES, SUBJECT, ScriptedRun
from trainer.jobs import PROFILES, Outcome, profile_named
from trainer.jobs.redaction import text_redaction

OURS = "correct-horse-battery"  # known to the process
TOKEN = "hf_" + "aB3" * 10  # written like one
NAMED = "hunter2hunter2"
SECRETS = (OURS, TOKEN, NAMED)
TRAIN = SUBJECT.replace("LEVEL = ", f'KEY = "{OURS}"\nHUB = "{TOKEN}"\nlogin = dict(password="{NAMED}")\nLEVEL = ')
PLANTED = f"{OURS} {TOKEN} password={NAMED}"
BAD = Turn(f"TITLE: {PLANTED}\nHYPOTHESIS: {PLANTED}\nSET LEVEL = {PLANTED}\n")
CRASH = Turn(
    f"TITLE: {PLANTED}\nHYPOTHESIS: {PLANTED}\n<<<<<<< SEARCH\nLEVEL = 1.8\n=======\n"
    f"LEVEL = 1.7 # fate: crashed # says: {PLANTED}\n>>>>>>> REPLACE\n",
    thoughts=PLANTED,
)
FAULT = Turn(PLANTED, "server_error")


@pytest.fixture
def scripted_run(tmp_path: Path, server: RedisServer) -> Iterator[ScriptedRun]:
    made = ScriptedRun(tmp_path, server, {**FILES, "train.py": TRAIN})
    yield made
    made.end()


def test_secrets_are_in_no_question_and_in_nothing_that_is_kept_of_an_answer(
    scripted_run: ScriptedRun, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_run.start_trainer()
    caplog.set_level(logging.INFO)
    with (
        ollama_double([BAD, BAD, CRASH, FAULT, Turn(nudge="LEVEL", by=0.99)]) as llm,
        opened(scripted_run, [], source=TRAIN, goal=Goal(3)) as run_context,
    ):
        run_context.journal.receive("r1", "idea", f"log in with {PLANTED}", "waits", waiting=True, at=2.0)
        proposers = Proposers(
            mix=Mix.LLM, vetting=Vetting(profile_named("cpu"), lambda: f"Go down. {PLANTED}"),
            optimizer=Optimizer(seed=7, context=256),
            llm=Conversation(OllamaClient(OllamaSettings(llm.url, "small")), secrets=[OURS]),
            folder=run_context.journal.folder / "experiments", publish_status=lambda _: None,
        )  # fmt: skip
        run_until_goal(replace(run_context, proposers=proposers))

    kept = [gzip.decompress(path.read_bytes()).decode() for path in scripted_run.journal.glob("experiments/*/*.gz")]
    with JournalReader(scripted_run.journal) as history:
        told = [(item.title, item.hypothesis) for item in history.experiments()]
        told += [("", item.reason or "") for item in history.experiments() if item.outcome is Outcome.REJECTED]
    assert len(kept) >= 3
    assert len(llm.asked) >= 5
    said = [record.getMessage() for record in caplog.records if "crashed" not in record.getMessage()]
    everything = {"asked": json.dumps(llm.asked), "kept": "".join(kept), "told": str(told), "said": str(said)}
    assert [(where, secret) for where, text in everything.items() for secret in SECRETS if secret in text] == []
    assert all("[redacted]" in text for text in everything.values())


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_that_a_model_is_told_of_the_default_subject_is_taken_for_a_secret(profile: str) -> None:
    texts = [*render_subject(profile_named(profile)).values(), *Prompts.read().texts.values()]

    assert [text for text in texts if text_redaction()(text) != text] == []


def test_an_adviser_is_told_no_secret_that_stands_beside_a_knob() -> None:
    advice = Advice((f"LEVEL = 1.8  # {PLANTED}; range 1.0..2.0",), f"LEVEL {PLANTED}")
    context = PromptContext(
        f"Go down. {PLANTED}", "cpu", TRAIN, "1.8", memory=(f"## {PLANTED}", PLANTED), advice=advice
    )
    move = Turn(json.dumps({"title": "t", "hypothesis": "h", "set": {"LEVEL": 1.7}}))
    with ollama_double([move]) as llm:
        proposer = Conversation(OllamaClient(OllamaSettings(llm.url, "small")), secrets=[OURS])
        draft = proposer.propose(context, lambda: None, accepted)

    told = json.dumps(llm.asked) + str(draft.exchanges)
    assert [secret for secret in SECRETS if secret in told] == []
    assert "LEVEL = 1.8  # [redacted]" in told
