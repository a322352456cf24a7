"""Does the examination accept honest models? Each of tests/subjects/honest.py runs once as a whole trial with its
replica, and several times through the real server of logits and the real scoring, with new questions each time and two
seeds.

Limit: no false alarm. The exit code is 1 if there is one.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.bench.trust import wilson
from tests.fixtures.examined import BUDGET, Look, closer_looks
from tests.fixtures.trials import CAPS, miniature, tiny_data
from tests.subjects.honest import HONEST_MODELS, Honest
from trainer.jobs import Outcome, files_digest
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.run import QUESTIONS
from trainer.trial.trial import run_trial

PATIENT = replace(BUDGET, setup_s=300, scoring_s=300)  # a compiler needs time
ROOMY = replace(CAPS, file_mib=1024)
NETS = 2
NOT_SHOWN = ("rows", "position")


@dataclass
class Seen:
    """The results of one model: its examinations, and the reason of each refusal."""

    name: str
    trials: int = 0
    looks: list[Look] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)

    @property
    def largest(self) -> dict[str, float]:
        """The largest value of each number in the model's findings."""
        found = [_numbers(asdict(look.finding)) for look in self.looks if look.finding is not None]
        return {name: max(each[name] for each in found) for name in (found[0] if found else ())}


def run(looks: int, names: list[str], workers: int, *, trials: bool) -> None:
    """Print the table; exit 1 if an honest model was refused. `names` chooses models; an empty list means all of
    them."""
    unknown = set(names) - {model.name for model in HONEST_MODELS}
    if unknown:
        sys.exit(
            f"no model is called {', '.join(sorted(unknown))}; there are: {', '.join(m.name for m in HONEST_MODELS)}"
        )
    models = [model for model in HONEST_MODELS if not names or model.name in names]
    ground = Path(tempfile.mkdtemp(prefix="overnight-bench-", dir="/var/tmp"))
    try:
        seen = _all_seen(models, ground, math.ceil(looks / len(models)), workers, trials)
    finally:
        shutil.rmtree(ground)
    console = Console(width=150)
    console.print(_table(seen))
    console.print(_in_words(seen))
    alarms = [f"{each.name}: {reason}" for each in seen for reason in each.alarms]
    console.print(*alarms, sep="\n", markup=False)
    if alarms:
        sys.exit(1)


def _all_seen(models: list[Honest], ground: Path, looks: int, workers: int, trials: bool) -> list[Seen]:
    """Examine the models in new processes, so that a script's changes of torch stay in one of them."""
    data = {vocab: tiny_data(ground / f"data-{vocab}", 64, vocab) for vocab in {model.vocab for model in models}}
    seen: dict[str, Seen] = {}
    with Progress(transient=True) as shown, ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        task = shown.add_task("honest models", total=len(models))
        futures = [
            pool.submit(_seen_of, model, ground / str(at), data[model.vocab], looks, trials)
            for at, model in enumerate(models)
        ]
        for future in as_completed(futures):
            each = future.result()
            seen[each.name] = each
            shown.update(task, description=each.name, advance=1)
    return [seen[model.name] for model in models]


def _seen_of(model: Honest, folder: Path, data: Path, looks: int, trials: bool) -> Seen:
    torch.set_num_threads(1)
    seen = _whole_trial(model, folder, data) if trials else Seen(model.name)
    for net, share in enumerate(_shares(looks)):
        seen.looks += closer_looks(model, data, share, seed=net)
    seen.alarms += [f"closer look: {look.refusal}" for look in seen.looks if look.refusal is not None]
    return seen


def _shares(looks: int) -> Iterator[int]:
    """Yield the number of examinations for each net; a net without any is left out."""
    for net in range(NETS):
        share = looks // NETS + (net < looks % NETS)
        if share:
            yield share


def _whole_trial(model: Honest, folder: Path, data: Path) -> Seen:
    (folder / "trials").mkdir(parents=True)
    (folder / "work").mkdir(mode=0o700)
    files = {"train.py": model.train, "prepare.py": model.prepare}
    name = f"h-{int(folder.name)}-t0-a1"
    plain = miniature(data, model.train, trial=name, budget=PATIENT, caps=ROOMY, score_to_beat=99.0)
    spec = replace(plain, files=files, files_sha256=files_digest(files))
    result = run_trial(spec, WorkerConfig(data, folder / "trials", folder / "work"), lambda _: None, lambda: False)
    passed = result.outcome is Outcome.OK and result.trust is not None and result.trust.probe is not None
    return Seen(model.name, trials=1, alarms=[] if passed else [f"whole trial: {result.outcome}, {result.reason}"])


def _numbers(finding: dict[str, Any], above: str = "") -> dict[str, float]:
    """Return the shown numbers of a finding and of its parts; it also works when the fields of a finding change."""
    numbers = {}
    for name, value in finding.items():
        if isinstance(value, dict):
            numbers |= _numbers(value, f"{above}{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in NOT_SHOWN:
            numbers[f"{above}{name}"] = float(value)
    return numbers


def _table(seen: list[Seen]) -> Table:
    table = Table(title=f"honest models: {QUESTIONS} questions in each look; of each figure the largest of all looks")
    figures = list(dict.fromkeys(name for each in seen for name in each.largest))
    for name in ("model", "whole trials", "looks", "false alarms", *figures):
        table.add_column(name.replace("_", " "), justify="left" if name == "model" else "right")
    for each in seen:
        largest = each.largest
        table.add_row(
            each.name,
            str(each.trials),
            str(len(each.looks)),
            str(len(each.alarms)),
            *(f"{largest[name]:.3g}" if name in largest else "-" for name in figures),
            end_section=each is seen[-1],
        )
    table.add_row(f"all {len(seen)}", *(str(sum(counts)) for counts in zip(*map(_counts, seen), strict=True)))
    return table


def _counts(seen: Seen) -> tuple[int, int, int]:
    return seen.trials, len(seen.looks), len(seen.alarms)


def _in_words(seen: list[Seen]) -> str:
    """Return the rate of false alarms and its upper bound as text: without an alarm in n it is below 3/n with 95 %."""
    trials, looks, alarms = (sum(counts) for counts in zip(*map(_counts, seen), strict=True))
    n = trials + looks
    bound = 3 / n if not alarms else wilson(alarms, n)[1]
    return (
        f"{alarms} false alarms in {n} examinations of {len(seen)} models ({looks} closer looks, {trials} whole trials "
        f"with a replica): below {bound:.2%} of such examinations, with 95 %"
    )
