"""The night of `tests.doubles.fault_scenarios`: real loop, journal, git, queue and HTTP; what became of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from researcher.journal.reader import History
from researcher.journal.records import Experiment
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.loop.context import Goal
from researcher.loop.loop import work
from researcher.optimizer.optimizer import Optimizer
from researcher.proposers.llm_conversation import LlmProposer
from researcher.proposers.llm_proposer import Asking
from researcher.proposers.proposers import Proposers
from researcher.proposers.schedule import Mix
from tests.doubles.fault_scenarios import SCENARIOS, TRAIN, Scenario, script
from tests.doubles.ollama_server import Turn, ollama_double
from tests.researcher.conftest import ScriptedNight
from tests.researcher.laboratory import opened
from trainer.jobs import profile_named

RUN = "Nudge LEVEL"
HURRY = {"hang": {"first_s": 0.2}, "stall": {"stall_s": 0.2}, "slow_trickle": {"deadline_s": 0.6}}


class Script:
    """Gives the double its turns, and remembers the questions; `row` is the one whose turn is next."""

    def __init__(self) -> None:
        self._turns = script()
        self._next = next(self._turns)
        self.asked: list[tuple[Scenario | None, list[dict[str, str]]]] = []

    @property
    def row(self) -> Scenario | None:
        return self._next[0]

    def __call__(self, body: dict[str, Any]) -> Turn:
        row, turn = self._next
        self.asked.append((row, body["messages"]))
        self._next = next(self._turns)
        return turn


class Patience(OllamaClient):
    """Waits as long as it must, but not for what is slow on purpose."""

    def __init__(self, settings: OllamaSettings, script: Script) -> None:
        super().__init__(settings)
        self._patient, self._script = settings, script

    def chat(self, *question: Any, **options: Any) -> Any:
        row = self._script.row
        fault = None if row is None else row.turns[0].fault
        self.settings = replace(self._patient, **HURRY.get(fault or "", {}))
        return super().chat(*question, **options)


class Clock:
    """Time passes where the researcher rests."""

    now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def rest(self) -> None:
        self.now_s += 1.0


@dataclass(frozen=True)
class Seen:
    """What became of a row: its experiments, the next experiment, and the next new question in full."""

    experiments: Sequence[Experiment]
    next_one: Experiment
    next_question: str


def tell_faults(night: ScriptedNight) -> dict[str, Seen]:
    """Run it: one experiment is measured after each row, and before the first."""
    script, clock = Script(), Clock()
    measured = 1 + len(SCENARIOS) + sum(row.said is None for row in SCENARIOS)
    with (
        ollama_double(script) as server,
        opened(night, [], source=TRAIN, goal=Goal(measured)) as lab,
    ):
        proposers = Proposers(
            mix=Mix.LLM, asking=Asking(profile_named("cpu"), lambda: "Go down."),
            optimizer=Optimizer(seed=7, context=256),
            llm=LlmProposer(Patience(OllamaSettings(server.url, "small"), script)),
            folder=lab.journal.folder / "experiments", say=lambda _: None, clock=clock.read,
        )  # fmt: skip
        work(replace(lab, proposers=proposers, rest=clock.rest))
    with History(night.journal) as history:
        return dict(_seen(history.experiments()[1:], script.asked))


def _seen(experiments: Sequence[Experiment], asked: Sequence[tuple[Scenario | None, list[dict[str, str]]]]) -> Any:
    left, questions = list(experiments[1:]), list(asked)
    for row in SCENARIOS:
        own = []
        while left[0].title != RUN:
            own.append(left.pop(0))
        last = max(number for number, (whose, _) in enumerate(questions) if whose is row)
        messages = questions[last + 1][1]
        yield row.name, Seen(own, left.pop(0), "\n".join(message["content"] for message in messages))
