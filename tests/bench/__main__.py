"""`python -m tests.bench NAME`: figures printed side by side."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from researcher.proposers.schedule import Mix
from services.machine.state import State
from tests.bench import (
    aa,
    attack,
    beside,
    campaign,
    checks,
    decision,
    faults,
    honest,
    overhead,
    prefix,
    proposers,
    record,
    replay,
    sandbox,
    scale,
    trust,
    unattended,
    unseen,
)


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    names = parser.add_subparsers(dest="name", required=True)
    one = names.add_parser("overhead", help="where the seconds of an experiment go, and whether an LLM is waited for")
    one.add_argument("--experiments", type=int, default=12, help="at each latency")
    one.add_argument("--budget", type=float, default=overhead.BUDGET, help="seconds of training in a trial")
    one.add_argument(
        "--llm-latency",
        type=float,
        nargs="+",
        default=overhead.LATENCIES_S,
        metavar="SECONDS",
        help="until the scripted LLM answers; a run for each",
    )
    mixes = [mix.value for mix in Mix if mix.asks_llm]
    one.add_argument("--proposer", choices=mixes, default=Mix.HYBRID.value, help="`llm` waits by design")
    one = names.add_parser("decision", help="what the decision rule finds and invents in simulated runs")
    one.add_argument("--nights", type=int, default=2000, help="in each world, under each rule")
    one.add_argument("--experiments", type=int, default=120)
    one = names.add_parser("unseen", help="what asking for a gain on unseen text costs true gains")
    one.add_argument("--claims", type=int, default=20_000, help="of each kind")
    one = names.add_parser("scale", help="a thousand experiments without training")
    one.add_argument("--experiments", type=int, default=1000, help="whole hundreds")
    one.add_argument("--optimizer", action="store_true", help="the real optimiser proposes, not the script")
    one = names.add_parser("sandbox", help="what the sandbox around a candidate costs")
    one.add_argument("--starts", type=int, default=40, help="bare and launched, in turn")
    one.add_argument("--kills", type=int, default=5, help="of trees that respawn")
    _add_trust(names)
    names.add_parser("faults", help="what small models and their servers do wrong, and what it costs")
    one = names.add_parser("replay", help="where stored answers of models fail under today's code")
    one.add_argument("--state", type=Path, required=True, metavar="DIR", help="the state folder of a run")
    names.add_parser("checks", help="what a check says of broken and harmless edits, and how long it takes")
    one = names.add_parser("prefix", help="how much of each prompt is the beginning of the one before")
    one.add_argument("--experiments", type=int, default=100)
    one = names.add_parser("record", help="real trials over the knobs, for `proposers`")
    one.add_argument("--file", type=Path, required=True, help="the lines; the same one goes on")
    one.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared data of `cpu`")
    one.add_argument("--trials", type=int, default=448, help="in all; whole blocks of 28")
    one = names.add_parser("proposers", help="who finds more in how many trials, in a model of recorded ones")
    one.add_argument("--file", type=Path, help="what `record` wrote; the shipped recording if not given")
    one.add_argument("--seeds", type=int, default=20)
    one.add_argument("--trials", type=int, default=100)
    one.add_argument("--sigma", type=float, help="noise of a run's scores; the recording's if not given")
    one.add_argument("--picture", type=Path, metavar="FILE", help="a PNG of what the runs hold")
    _add_real_nights(names)
    return parser.parse_args()


def _add_trust(names: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Whether a score is to be believed, and what that costs."""
    one = names.add_parser("trust", help="what scoring outside costs, and what the closer look at a score finds")
    one.add_argument("--data", type=Path, metavar="DIR", help="prepared data of `cpu`; recreated if not given")
    one.add_argument("--quick", action="store_true", help="fewer runs, two minutes")
    one.add_argument(
        "--beside", type=Path, metavar="DIR", help="only the costs, in pairs with the code of another checkout"
    )
    one.add_argument("--pairs", type=int, default=8, help="with --beside: how many; two minutes each")
    one.add_argument("--look", nargs="+", choices=beside.LOOKS, default=beside.LOOKS, help="with --beside")
    one = names.add_parser("honest", help="whether honest models of many shapes are left alone")
    one.add_argument("--looks", type=int, default=400, help="closer looks in all, besides a whole trial of each")
    one.add_argument("--only-looks", action="store_true", help="no whole trials: a minute instead of ten")
    one.add_argument("--model", nargs="+", default=[], metavar="NAME", help="only these of the table")
    one.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    one = names.add_parser("attack", help="whether a generated cheat scores better than honest without being refused")
    one.add_argument("--seed", type=int, default=1, help="of the draw")
    one.add_argument("--count", type=int, default=500)
    one.add_argument("--minutes", type=float, help="none is begun after them")
    one.add_argument(
        "--dir", type=Path, metavar="DIR", help="what was tried, and what got through; the same one goes on"
    )
    one.add_argument("--jobs", type=int, help="at a time; one for each core if not given")


def _add_real_nights(names: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = names.add_parser("campaign", help="what real runs confirm")
    one.add_argument("--dir", type=Path, required=True, help="where the campaigns lie; the same one goes on")
    one.add_argument("--proposer", type=Mix, choices=list(Mix), nargs="+", default=[Mix.OPTIMIZER])
    one.add_argument("--campaigns", type=int, default=5)
    one.add_argument("--experiments", type=int, default=20)
    one.add_argument("--budget", type=float, help="seconds of training in a trial; the profile's if not given")
    one.add_argument("--picture", type=Path, metavar="FILE", help="a PNG of what each run held")
    one = names.add_parser("aa", help="what a real run makes of edits that change nothing, under changing load")
    one.add_argument("--dir", type=Path, required=True, help="where the run lies")
    one.add_argument("--experiments", type=int, default=20)
    one.add_argument("--budget", type=float, help="seconds of training in a trial; the profile's if not given")
    one = names.add_parser("unattended", help="a real run in which LLM, trainer and researcher fail again and again")
    one.add_argument("--dir", type=Path, required=True, help="where the run lies; the same one goes on")
    one.add_argument("--experiments", type=int, default=100)
    one.add_argument("--budget", type=float, default=1.5, help="seconds of training in a trial")
    one.add_argument("--picture", type=Path, metavar="FILE", help="a PNG of memory, open files and seconds")


RUNS: dict[str, Callable[[argparse.Namespace], None]] = {
    "overhead": lambda options: overhead.run(
        options.experiments, options.budget, options.llm_latency, options.proposer
    ),
    "decision": lambda options: decision.run(options.nights, options.experiments),
    "unseen": lambda options: unseen.run(options.claims),
    "scale": lambda options: scale.run(options.experiments, options.optimizer),
    "campaign": lambda options: campaign.run(
        options.dir, options.campaigns, options.experiments, options.budget, options.proposer, options.picture
    ),
    "sandbox": lambda options: sandbox.run(options.starts, options.kills),
    "trust": lambda options: (
        beside.run(options.beside, options.pairs, options.look)
        if options.beside is not None
        else trust.run(options.data, quick=options.quick)
    ),
    "honest": lambda options: honest.run(options.looks, options.model, options.workers, trials=not options.only_looks),
    "attack": lambda options: attack.run(options.seed, options.count, options.minutes, options.dir, options.jobs),
    "faults": lambda _: faults.run(),
    "replay": lambda options: replay.replay_proposals(State(options.state), Console()),
    "checks": lambda _: checks.run(),
    "prefix": lambda options: prefix.run(options.experiments),
    "record": lambda options: record.run(options.file, options.data, options.trials),
    "proposers": lambda options: proposers.run(
        options.file, options.seeds, options.trials, options.sigma, options.picture
    ),
    "unattended": lambda options: unattended.run(options.dir, options.experiments, options.budget, options.picture),
    "aa": lambda options: aa.run(options.dir, options.experiments, options.budget),
}


def main() -> None:
    """Run one benchmark."""
    options = _chosen()
    RUNS[options.name](options)


if __name__ == "__main__":
    main()
