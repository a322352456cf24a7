"""The records of a run: the run, its experiments, their trials, confirmations and requests, as the journal stores them.

Read this module and `trainer.jobs` first. Records are immutable; a state changes only through
`researcher.journal.writer`. `outcome` is what happened to a candidate, `decision` is the researcher's decision, and
`verdict` is the result of a confirmation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from researcher.source.proposal import LlmCost
from trainer.jobs import BITS_PER_BYTE, Degree, Kind, Measurements, Metric, Outcome


class State(StrEnum):
    """The progress of an experiment or a confirmation. Each step to the next state can be repeated after a crash."""

    PROPOSED = "proposed"
    COMMITTED = "committed"
    MEASURING = "measuring"
    DECIDED = "decided"
    APPLIED = "applied"


class Decision(StrEnum):
    """The decision on a candidate. A keep is provisional until a claim confirms it."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"


class ConfirmationKind(StrEnum):
    """The kinds of a confirmation: to test a claimed gain, or to test whether the incumbent still works."""

    CLAIM = "claim"
    INCUMBENT = "recheck"  # the text in journals

    @property
    def words(self) -> str:
        """The kind as text for users."""
        return "claim" if self is ConfirmationKind.CLAIM else "incumbent confirmation"


class ConfirmationVerdict(StrEnum):
    """The result of a confirmation."""

    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"
    HOLDS = "holds"
    FAILS = "fails"

    @property
    def words(self) -> str:
        """The verdict as text for users."""
        return self.value.replace("_", " ")


class RequestState(StrEnum):
    """The state of a request."""

    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"


class PauseCause(StrEnum):
    """The cause of a pause.

    In order: a user's request, lost trials, a version that ran before and fails now, an LLM that stays on the GPU, and
    an outage of a disk or a server.
    """

    USER = "user"
    INFRASTRUCTURE = "infrastructure"
    SUBJECT = "subject"
    GPU = "gpu"
    OUTAGE = "outage"


@dataclass(frozen=True)
class Pause:
    """The cause of a pause for code, and a message for users.

    A user's pause ends by `resume` alone, any other also by itself.
    """

    cause: PauseCause
    message: str


CONFIRM = "confirm"  # the kind of a request for a claim
ASKED_TO_PAUSE = Pause(PauseCause.USER, "a user asked for it")


@dataclass(frozen=True)
class Prices:
    """The prices of an hour and of a million tokens, in the user's currency; None if the user gave no price."""

    per_hour: float | None = None
    per_mtoken: float | None = None


@dataclass(frozen=True)
class Goal:
    """The limits that end a run; the first limit reached ends it, and None is no limit.

    They count over the whole run and include the final confirmation: measured experiments, a moment in seconds since
    the epoch, and money in the user's currency.
    """

    experiments: int | None = None
    until: float | None = None
    max_cost: float | None = None


@dataclass(frozen=True)
class Run:
    """A sequence of experiments on one branch. `incumbent` and `confirmed` are experiment ids."""

    id: int
    tag: str
    profile: str
    budget: float
    branch: str
    base_commit: str
    data_sha256: str
    seed: int
    incumbent: int | None
    confirmed: int | None
    pause: Pause | None
    prices: Prices
    created_at: float
    ended: str | None = None  # why the run is over; None while it continues, and in an older journal
    going_since: float | None = None  # the last start, or the end of the last pause
    seed_key: str | None = None  # the secret key for the seeds of trials; None in an older journal
    goal: Goal = Goal()  # the limits of the last start
    ended_at: float | None = None  # when the run ended; None while it continues, and in an older journal
    metric: Metric = BITS_PER_BYTE
    degree: Degree = Degree.MEASURED
    without_unseen_sha256: str | None = None  # of the data without the unseen slice; None in an older journal

    @property
    def paused_by_user(self) -> bool:
        """True while a user's pause lasts."""
        return self.pause is not None and self.pause.cause is PauseCause.USER


@dataclass(frozen=True)
class Experiment:
    """One proposal and its progress. Number 0 is the baseline; a rejected proposal has no candidate and no trial."""

    id: int
    number: int
    parent: int | None
    proposer: str | None
    title: str
    hypothesis: str
    request: str | None
    fingerprint: str | None
    added_lines: int | None
    state: State
    commit_sha: str | None
    outcome: Outcome | None
    decision: Decision | None
    reason: str | None
    score: float | None
    margin: float | None
    sigma: float | None
    cost: LlmCost | None
    proposed_at: float
    decided_at: float | None
    applied_at: float | None

    @property
    def is_baseline(self) -> bool:
        """True for the unmodified subject."""
        return self.number == 0

    @property
    def was_measured(self) -> bool:
        """True for experiments that count: decided, not the baseline, and with a trial."""
        has_trial = self.outcome is not None and not self.outcome.is_without_trial
        return not self.is_baseline and self.decision is not None and has_trial


# The columns of the table `trial` that hold what was measured: one for each field of the contract's Measurements.
MEASURED = tuple(field.name for field in fields(Measurements))


@dataclass(frozen=True)
class Trial(Measurements):
    """One measurement of an experiment's candidate. `attempt` grows with each lost or repeated attempt.

    `JournalReader.result` returns the whole result, with its loss curve and log, by the trial's id.
    """

    id: int
    experiment: int
    confirmation: int | None
    kind: Kind
    number: int
    attempt: int
    faults: int
    seed: int
    score_to_beat: float | None
    finished: bool
    outcome: Outcome | None
    reason: str | None
    queued_at: float
    finished_at: float | None
    differed: int = 0  # attempts at an unusual speed of the machine
    machine: str | None = None  # how the speed of the last such attempt differed
    repeats: int = 0  # measurements that were repeated
    disturbed: int = 0  # repeats because of a possible accident
    failed: int = 0  # repeats because code that ran before failed
    accident: str | None = None  # why the last measurement was set aside


@dataclass(frozen=True)
class Confirmation:
    """Trials of `head` (an experiment id) with fresh seeds. A claim measures as many trials of `base`, in pairs."""

    id: int
    kind: ConfirmationKind
    head: int
    base: int | None
    pairs: int
    state: State
    verdict: ConfirmationVerdict | None
    reason: str | None
    gain: float | None
    threshold: float | None
    sigma: float | None
    head_score: float | None
    base_score: float | None
    started_at: float
    decided_at: float | None
    applied_at: float | None
    unseen_gain: float | None = None  # of a claim, in the unit of the metric; None without unseen scores

    @property
    def incumbent_failed(self) -> bool:
        """True for an incumbent confirmation whose trial failed."""
        return self.kind is ConfirmationKind.INCUMBENT and self.verdict is ConfirmationVerdict.FAILS

    @property
    def rolled_back(self) -> bool:
        """True if the run returned from the head to the base."""
        return self.incumbent_failed or self.verdict is ConfirmationVerdict.ROLLED_BACK


@dataclass(frozen=True)
class PaidCall:
    """A question to the stronger model. `why` is the reason, `after` the id of the last experiment before it.

    `worst` is the highest possible cost, recorded before the question. `money` is the real cost, or None if unknown.
    `cap` is the spending limit at that time. `fault` is the reason for a missing answer.
    """

    id: int
    after: int
    why: str
    endpoint: str
    model: str
    cap: float
    worst: float
    prompt_tokens: int | None
    answer_tokens: int | None
    money: float | None
    fault: str | None

    @property
    def counted(self) -> float:
        """The amount that counts towards the spending limit."""
        return self.worst if self.money is None else self.money


@dataclass(frozen=True)
class Request:
    """A user's request: an idea, a file, or a control."""

    id: str
    kind: str
    body: str
    state: RequestState
    answer: str
    received_at: float
    done_at: float | None


@dataclass(frozen=True)
class Ruling:
    """A decision with its reason. `margin` is None if no score was compared."""

    decision: Decision
    reason: str
    score: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Claim:
    """The result of a claim's trials, as scores. `verdict` is None if one more pair is needed."""

    verdict: ConfirmationVerdict | None
    gain: float
    threshold: float
    head_score: float
    base_score: float
    reason: str
    unseen_gain: float | None = None
