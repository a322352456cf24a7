"""The run as data: a run, its experiments, their trials, confirmations and requests, as the journal holds them.

Read this and `trainer.jobs` first. Rows are immutable; a state changes only through `researcher.journal.writer`.
`outcome` is what happened to a candidate, `decision` what we did, `verdict` what fresh seeds said of a claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from researcher.source.proposal import LlmCost
from trainer.jobs import Kind, Outcome


class State(StrEnum):
    """How far an experiment is. Every step from one to the next can be repeated after a crash."""

    PROPOSED = "proposed"
    COMMITTED = "committed"
    MEASURING = "measuring"
    DECIDED = "decided"
    APPLIED = "applied"


class Decision(StrEnum):
    """What we did. A keep is provisional until a confirmation says more."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"


class CheckKind(StrEnum):
    """Why fresh trials are run: to claim a gain, or to see whether the incumbent still works."""

    CLAIM = "claim"
    RECHECK = "recheck"


class ConfirmationVerdict(StrEnum):
    """What came of fresh trials."""

    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"
    HOLDS = "holds"
    FAILS = "fails"

    @property
    def words(self) -> str:
        """For people."""
        return self.value.replace("_", " ")


class RequestState(StrEnum):
    """What became of a request."""

    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"


class PauseCause(StrEnum):
    """Why the run waits: a user asked for it, trials get lost, a state that ran before fails now, an LLM does not leave
    the GPU, or a disk or a server is not as it must be."""

    USER = "user"
    INFRASTRUCTURE = "infrastructure"
    SUBJECT = "subject"
    GPU = "gpu"
    OUTAGE = "outage"


@dataclass(frozen=True)
class Pause:
    """Why the run waits, for code and for people. A user's pause ends by `resume` alone, any other also by itself."""

    cause: PauseCause
    message: str


CONFIRM = "confirm"  # the kind of request that asks for a claim
ASKED_TO_PAUSE = Pause(PauseCause.USER, "a person asked for it")


@dataclass(frozen=True)
class Prices:
    """What a run costs, in the owner's currency. None where the owner did not say."""

    per_hour: float | None = None
    per_mtoken: float | None = None


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
    ended: str | None = None  # why the run is over; None while it goes on, and in a journal older than this
    going_since: float | None = None  # the last start, or the end of the last pause
    seed_key: str | None = None  # what the seeds of trials are drawn from; None in a journal older than this

    @property
    def paused_by_user(self) -> bool:
        """True while the run waits for the user who paused it."""
        return self.pause is not None and self.pause.cause is PauseCause.USER


@dataclass(frozen=True)
class Experiment:
    """One proposal's way through the loop. Number 0 is the baseline; a rejected one has no candidate and no trial."""

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
        """True for what counts as an experiment: decided, not the baseline, not rejected."""
        return not self.is_baseline and self.decision is not None and self.outcome is not Outcome.REJECTED


@dataclass(frozen=True)
class Trial:
    """One measurement of an experiment's candidate; `attempt` rises when the machine loses one or one is set aside.

    The whole result, with its loss curve and log, is asked for by id: `History.result`.
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
    val_bpb: float | None
    heldout_bpb: float | None
    wall_s: float | None
    memory_mib: float | None
    queued_at: float
    finished_at: float | None
    unseen_bpb: float | None = None  # on text that nobody has written; for claims alone
    differed: int = 0  # attempts on a machine that was not as usual
    machine: str | None = None  # how the last of them differed, in words
    repeats: int = 0  # measurements that were set aside
    disturbed: int = 0  # those of them that may have met with an accident
    failed: int = 0  # failures of code that ran before, after each of which it was asked once more
    accident: str | None = None  # what befell the last measurement that was set aside, in words


@dataclass(frozen=True)
class Confirmation:
    """Fresh-seed trials of `head` (an experiment id), for a claim in pairs with as many of `base`."""

    id: int
    kind: CheckKind
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
    unseen_gain: float | None = None  # of a claim; None where its trials were not scored there

    @property
    def fell(self) -> bool:
        """True when the run went back from the head to the base."""
        recheck_failed = self.kind is CheckKind.RECHECK and self.verdict is ConfirmationVerdict.FAILS
        return recheck_failed or self.verdict is ConfirmationVerdict.ROLLED_BACK


@dataclass(frozen=True)
class PaidCall:
    """A question to the stronger model, and `why` it was asked after the experiment `after` (an id).

    `worst` is the most that it can cost, written down before it is asked; `money` what it did cost, None where nobody
    knows. `cap` is what the run might spend in all at that time. `fault` says why there is no answer.
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
        """What it counts in the sum."""
        return self.worst if self.money is None else self.money


@dataclass(frozen=True)
class Request:
    """Something a person asked for: an idea, a file, a control."""

    id: str
    kind: str
    body: str
    state: RequestState
    answer: str
    received_at: float
    done_at: float | None


@dataclass(frozen=True)
class Ruling:
    """A decision with its reason in words; `margin` is None where no score was compared."""

    decision: Decision
    reason: str
    score: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Claim:
    """What fresh seeds say. `verdict` is None while one more pair could still tell."""

    verdict: ConfirmationVerdict | None
    gain: float
    threshold: float
    head_score: float
    base_score: float
    reason: str
    unseen_gain: float | None = None
