"""Asks models the stored questions of a run again: how many answers parse, apply, pass the dry run, and train.

Each model answers the same questions, about the same versions of train.py. Novelty is not tested, and the run is not
changed. The trials take place only with `--trials`, because each needs the time of a trial. Memory is what Ollama
reports for the loaded model; other servers do not tell it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from researcher.errors import BadLlmResponse, LlmUnavailable, ResearcherError
from researcher.journal.reader import JournalReader
from researcher.llm.client import ChatClient, LlmOptions, Message, Sampling, is_small
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.llm.openai import openai_client
from researcher.prompting.knob_json import schema_of
from researcher.prompting.prompt import Prompts
from researcher.prompting.thoughts import with_thoughts
from researcher.prompting.transcripts import UnreadableTranscript, stored_exchanges
from researcher.proposers.advice import to_runnable_change
from researcher.proposers.draft import Draft
from researcher.proposers.llm_conversation import parse_and_validate
from researcher.repository.repository import EDITABLE, Workspace
from researcher.source.proposal import EditFormat, Proposal
from researcher.source.validation import validate
from services.machine.state import State
from services.machine.subject import repository_of
from tests.bench.replay import NO_FORMAT, PASSED
from trainer.jobs import (
    DryRunSpec,
    DryRunVerdict,
    Kind,
    Outcome,
    Profile,
    TrialSpec,
    files_digest,
    trial_id,
)
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.dry_run import run_dry_run
from trainer.trial.trial import run_trial

QUESTIONS = 8
STEPS = ("parse", "apply", "validate")
COLUMNS = ("questions", "no answer", "answers", *STEPS, "dry run", "trial")
SHARES = (*STEPS, "dry run", "trial")
_MIB = 2**20
_TURN = re.compile(r"(?:^|\n\n)\[(system|user)\]\n")


@dataclass(frozen=True)
class Question:
    """A stored question of one experiment about `source`, with the formats that it offers."""

    source: str
    messages: tuple[Message, ...]
    edit_formats: tuple[EditFormat, ...]

    @property
    def in_json(self) -> bool:
        """Whether only a change of knobs in JSON is an answer."""
        return self.edit_formats == (EditFormat.JSON,)


@dataclass
class Tally:
    """The counts of one model and one edit format, with the seconds and tokens of the answers."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Ground:
    """The files and the data of the run for dry runs and trials, and whether trials take place."""

    folder: Path
    state: State
    profile: Profile
    files: Mapping[str, str]
    data_sha256: str
    trials: bool


def run(state: State, models: Sequence[str], url: str | None, host: str, count: int, *, trials: bool) -> None:
    """Ask each model, and print a table."""
    console, folder = Console(width=150), Path(tempfile.mkdtemp(prefix="overnight-bench-", dir="/var/tmp"))
    choices = state.require_run()
    try:
        with JournalReader(state.journal) as history:
            found, started = history.run(), Workspace(repository_of(state), script=state.require_run().script)
            assert found is not None, "a run has begun"
            files = started.files(found.base_commit)
            started.close()
            ground = Ground(folder, state, choices.trial_profile(), files, found.data_sha256, trials)
            asked = stored_questions(history, state, count)
        tallies = {model: answers_of(client_for(model, url, host), asked, ground, console) for model in models}
        memory = {model: memory_mib(model, url, host) for model in models}
        console.print(table_of(tallies, memory, trials=trials))
    finally:
        shutil.rmtree(folder)


def client_for(model: str, url: str | None, host: str) -> ChatClient:
    """Return the client of a model at an OpenAI-compatible `url`, or at the Ollama `host`."""
    if url is not None:
        return openai_client(LlmOptions(model=model, url=url))
    return OllamaClient(OllamaSettings(host, model))


def memory_mib(model: str, url: str | None, host: str) -> float | None:
    """Return the memory of a loaded model in MiB, or None if the server does not tell it."""
    if url is not None:
        return None
    try:
        loaded = httpx.get(f"{OllamaSettings(host, model).url}/api/ps", timeout=5, trust_env=False).json()["models"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return next((each["size"] / _MIB for each in loaded if each["name"].removesuffix(":latest") == model), None)


def stored_questions(history: JournalReader, state: State, count: int) -> list[Question]:
    """Return the first question of each of the last `count` experiments that asked an LLM, oldest first."""
    found = []
    for item in history.experiments():
        if item.cost is None or item.parent is None:
            continue
        try:
            exchanges = stored_exchanges(state.journal / "experiments" / str(item.number))
        except UnreadableTranscript:
            continue
        if exchanges:
            found.append(question_of(exchanges[0].prompt, history.source(item.parent)))
    return found[-count:]


def question_of(prompt: str, source: str) -> Question:
    """Return the question in a stored prompt."""
    _, _, system, _, user = _TURN.split(prompt, maxsplit=2)
    texts = Prompts.read().texts
    formats = tuple(each for each in EditFormat if texts[each].strip() in system)
    if texts["one_knob"].strip() in system:
        formats = (EditFormat.JSON,)
    return Question(source, (Message("system", system), Message("user", user)), formats)


def answers_of(client: ChatClient, asked: Sequence[Question], ground: Ground, console: Console) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for number, question in enumerate(track(asked, client.model, console=console, transient=True)):
        for form, what, seconds, tokens in _answer(client, question, ground, number):
            tally = tallies.setdefault(form, Tally())
            tally.counts.update(what)
            tally.seconds += seconds
            tally.tokens += tokens
    return tallies


def _answer(
    client: ChatClient, question: Question, ground: Ground, number: int
) -> Iterator[tuple[str, list[str], float, int]]:
    """Yield the form of an answer, the steps that it passed, its seconds and its tokens."""
    schema = schema_of(question.source, one_knob=is_small(client)) if question.in_json else None
    try:
        answer = client.chat(question.messages, lambda: None, schema=schema, sampling=Sampling.after(0))
    except (LlmUnavailable, BadLlmResponse):
        yield NO_FORMAT, ["questions", "no answer"], 0.0, 0
        return

    def vet(proposal: Proposal) -> Draft:
        if question.in_json:
            proposal = to_runnable_change(proposal, question.source, ground.profile.context)
        return Draft(proposal, validate(proposal, question.source, lambda _: None))

    proposal, found = parse_and_validate(
        with_thoughts(answer.thoughts, answer.text),
        question.source,
        vet,
        cut=answer.done_reason == "length",
        offered=(EditFormat.JSON,) if question.in_json else (),
    )
    (attempt,) = proposal.attempts
    what = ["questions", "answers", *STEPS[: PASSED[attempt.failed]]]
    if attempt.failed is None and not isinstance(found, ResearcherError):
        what += _measured(found.source, ground, f"{client.model}-{number}")
    yield next(iter(attempt.edit_formats), NO_FORMAT), what, answer.seconds, answer.answer_tokens or 0


def _measured(source: str, ground: Ground, name: str) -> list[str]:
    """Return the names of the steps that a candidate passes: its dry run, and its trial if trials take place."""
    folder = ground.folder / re.sub(r"\W", "-", name)
    for part in ("trials", "work"):
        (folder / part).mkdir(parents=True, mode=0o700)
    config = WorkerConfig(ground.state.data, folder / "trials", folder / "work")
    files = {**ground.files, EDITABLE: source}
    if run_dry_run(DryRunSpec(ground.profile.name, files), config, lambda: False).verdict is DryRunVerdict.FAILS:
        return []
    if not ground.trials:
        return ["dry run"]
    spec = TrialSpec(
        id=trial_id("bench-models", 0, 0, 1),
        kind=Kind.MANUAL,
        profile=ground.profile.name,
        files=files,
        files_sha256=files_digest(files),
        data_sha256=ground.data_sha256,
        seed=1,
        budget=ground.profile.budget,
        caps=ground.profile.caps,
    )
    result = run_trial(spec, config, lambda _: None, lambda: False)
    return ["dry run", "trial"] if result.outcome is Outcome.OK else ["dry run"]


def table_of(tallies: Mapping[str, Mapping[str, Tally]], memory: Mapping[str, float | None], *, trials: bool) -> Table:
    """Return the rates of each model and edit format. A share is of the answers; `trials` took place or did not."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("model", "edit format", *COLUMNS, "s", "tokens", "MiB"):
        table.add_column(name, justify="left" if name in ("model", "edit format") else "right", no_wrap=True)
    for model, by_form in tallies.items():
        for form, tally in sorted(by_form.items()):
            answers = tally.counts["answers"]
            cells = [_cell(name, tally.counts[name], answers) for name in COLUMNS[:-1]]
            cells.append(_cell("trial", tally.counts["trial"], answers if trials else 0))
            each = ["-", "-"] if not answers else [f"{tally.seconds / answers:.1f}", f"{tally.tokens / answers:.0f}"]
            held = memory[model]
            table.add_row(model, form, *cells, *each, "-" if held is None else f"{held:.0f}")
    return table


def _cell(name: str, count: int, answers: int) -> str:
    if name not in SHARES:
        return str(count)
    return f"{count / answers:.0%}" if answers else "-"
