"""The JSON of `overnight status --json`: its types, from which `overnight status --schema` makes a JSON schema.

A field is added without a new version; a field that is removed, renamed or changed raises `VERSION`. Moments are
seconds since the epoch, spans are seconds, values and gains are in the unit of the metric, and money is in the user's
currency. A gain above 0 is better, whatever the direction of the metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trainer.jobs import Degree, Direction

VERSION = 3


class RunState(StrEnum):
    """The state of a run. `pausing` lasts until the running trial has ended; `unknown` is a run whose Redis does not
    answer."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    ENDED = "ended"
    REFUSED = "refused"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class RunFields:
    """The run: its tag, profile, seconds of training in a trial, and git's names."""

    tag: str
    profile: str
    budget: float
    branch: str
    base_commit: str


@dataclass(frozen=True)
class MetricFields:
    """The metric: its name, its unit, the better direction, and the degree of trust in its values."""

    name: str
    unit: str
    direction: Direction
    degree: Degree


@dataclass(frozen=True)
class Times:
    """The times of a run. `started_at` is its first start, `running_s` the time from there to now or to its last event,
    and `ends_at` the expected end with the final confirmation; None without a limit, or if the run does not go on."""

    started_at: float
    running_s: float
    ended_at: float | None
    ends_at: float | None


@dataclass(frozen=True)
class GoalFields:
    """The limits of the last start; None is no limit."""

    experiments: int | None
    until: float | None
    max_cost: float | None


@dataclass(frozen=True)
class Progress:
    """The measured experiments, and the mean seconds of the latest from proposal to decision."""

    measured: int
    seconds_each: float | None


@dataclass(frozen=True)
class CostFields:
    """The seconds of trials and LLM answers, the tokens, and the money: the price of the time since the first start and
    of paid tokens; None without a price."""

    trial_s: float
    llm_s: float
    llm_tokens: int
    money: float | None


@dataclass(frozen=True)
class Best:
    """The best version: its experiment, and the mean of all its values over `seeds` trials."""

    number: int
    title: str
    value: float
    seeds: int
    confirmed: bool
    commit: str | None


@dataclass(frozen=True)
class GainFields:
    """The value of the baseline, and the gains over it. Only the confirmed ones are proven."""

    baseline: float
    confirmed: float | None
    provisional: float | None
    confirmed_heldout: float | None


@dataclass(frozen=True)
class WaitingRequest:
    """A user's idea, file or confirmation that the run has not taken up yet."""

    kind: str
    text: str
    received_at: float


@dataclass(frozen=True)
class Document:
    """The whole state of a run at the moment `at`. `rows` holds one object for each experiment, as results.json, and
    `options` the settings with which the next start continues, by key."""

    version: int
    at: float
    state: RunState
    doing: str
    headline: str | None
    run: RunFields | None
    metric: MetricFields | None
    times: Times | None
    goal: GoalFields | None
    progress: Progress | None
    cost: CostFields | None
    best: Best | None
    gain: GainFields | None
    tally: dict[str, int]
    proposers: list[dict[str, str | float | None]]
    alarm: str | None
    range_faults: dict[str, str]
    options: dict[str, str]
    notes: dict[str, str]
    workers: list[dict[str, object]]
    waiting: list[WaitingRequest]
    rows: list[dict[str, object]]


def schema() -> dict[str, object]:
    """Return the JSON schema of the document."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - `status` itself does not need it

    return TypeAdapter(Document).json_schema()
