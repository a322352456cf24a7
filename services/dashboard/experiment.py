"""Everything about one experiment, as its page shows it. Pure functions of what was read."""

from __future__ import annotations

from dataclasses import dataclass

from researcher.decision.machine_speed import speed_text
from services.dashboard.curves import Curves, curves_of
from services.dashboard.diff import Diff, diff_of
from services.dashboard.experiments import kind_of, label_of
from services.dashboard.run_data import ExperimentDetail, MeasuredTrial
from services.views.render import confirmation_text, gap_text, span_text
from services.views.show import closer_look

LONGEST_TEXT = 60_000  # characters of a prompt, an answer or a log on the page


@dataclass(frozen=True)
class TrialLine:
    """One trial in words."""

    number: int
    kind: str
    seed: int
    outcome: str
    value: str
    took: str
    memory: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExchangeText:
    """One prompt and its answer. `fault` is the reason why the answer was not used, or empty."""

    prompt: str
    reply: str
    fault: str


@dataclass(frozen=True)
class ExperimentView:
    """The content of the page of one experiment."""

    detail: ExperimentDetail
    kind: str
    label: str
    diff: Diff | None
    curves: Curves | None
    trials: tuple[TrialLine, ...]
    layers: tuple[str, ...]
    confirmations: tuple[str, ...]
    held_out: str
    exchanges: tuple[ExchangeText, ...]
    log: str
    previous: int | None
    next: int | None


def experiment_view(detail: ExperimentDetail) -> ExperimentView:
    """Return the page of an experiment."""
    found, row = detail.run_report, detail.row
    number, numbers = row.experiment.number, [each.experiment.number for each in found.rows]
    held_out = found.heldout.keeps.get(row.experiment.id)
    layers = next((each.result.layers for each in detail.trials if each.result and each.result.layers), ())
    return ExperimentView(
        detail=detail,
        kind=kind_of(row),
        label=label_of(row),
        diff=None
        if detail.source is None or detail.parent_source is None
        else diff_of(detail.parent_source, detail.source),
        curves=curves_of(detail.curve, detail.compared_curve),
        trials=tuple(_trial_line(detail, each) for each in detail.trials),
        layers=layers,
        confirmations=tuple(confirmation_text(found, each) for each in found.decided_confirmations(row.experiment)),
        held_out="" if held_out is None else gap_text(held_out),
        exchanges=tuple(
            ExchangeText(_bounded(each.prompt), _bounded(each.reply), each.fault or "") for each in detail.exchanges
        ),
        log=detail.log[-LONGEST_TEXT:],
        previous=max((each for each in numbers if each < number), default=None),
        next=min((each for each in numbers if each > number), default=None),
    )


def _trial_line(detail: ExperimentDetail, measured: MeasuredTrial) -> TrialLine:
    trial, result = measured.trial, measured.result
    metric = detail.run_report.run.metric
    notes = [speed_text(trial), None if result is None else closer_look(result)]
    if trial.accident is not None:
        notes.append(f"measured again: {trial.accident}")
    return TrialLine(
        number=trial.number,
        kind=trial.kind.value,
        seed=trial.seed,
        outcome="queued" if trial.outcome is None else trial.outcome.value.replace("_", " "),
        value="" if trial.val_bpb is None else metric.text(trial.val_bpb),
        took="" if trial.wall_s is None else span_text(trial.wall_s),
        memory="" if trial.memory_mib is None else f"{trial.memory_mib / 1024:.1f} GiB",
        notes=tuple(note for note in notes if note),
    )


def _bounded(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - LONGEST_TEXT} characters are left out here …]\n{text[-half:]}"
