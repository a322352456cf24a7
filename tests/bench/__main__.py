"""`python -m tests.bench NAME`: prints the figures of a bench."""

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
    decision,
    dry_runs,
    faults,
    honest,
    models,
    overhead,
    page,
    prefix,
    proposers,
    record,
    replay,
    sandbox,
    scale,
    scoring,
    trust,
    unattended,
    unseen,
)


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    names = parser.add_subparsers(dest="name", required=True)
    one = names.add_parser("overhead", help="the seconds of each part of an experiment, and the wait for an LLM")
    one.add_argument("--experiments", type=int, default=12, help="number at each latency")
    one.add_argument("--budget", type=float, default=overhead.BUDGET, help="seconds of training in a trial")
    one.add_argument(
        "--llm-latency",
        type=float,
        nargs="+",
        default=overhead.LATENCIES_S,
        metavar="SECONDS",
        help="seconds until the scripted LLM answers; a run for each value",
    )
    mixes = [mix.value for mix in Mix if mix.asks_llm]
    one.add_argument("--proposer", choices=mixes, default=Mix.HYBRID.value, help="`llm` waits by design")
    one = names.add_parser("decision", help="true and false gains that the decision rule confirms in simulated runs")
    one.add_argument("--runs", type=int, default=2000, help="runs in each world, under each rule")
    one.add_argument("--experiments", type=int, default=120)
    one = names.add_parser("unseen", help="true gains lost because a claim must also gain on unseen text")
    one.add_argument("--claims", type=int, default=20_000, help="number of each kind")
    one = names.add_parser("scale", help="thousands of experiments without training")
    one.add_argument("--experiments", type=int, default=1000, help="number, a multiple of 100; of 500 above 2,000")
    one.add_argument("--optimizer", action="store_true", help="the real optimiser proposes, not the script")
    one.add_argument("--push", action="store_true", help="the run pushes to a repository of a user")
    one = names.add_parser("page", help="first paint, events, memory of the page, and the speed of a run beside it")
    one.add_argument("--experiments", type=int, default=5000, help="number in the journal that the page shows")
    one.add_argument("--clients", type=int, default=20, help="number of open pages")
    one.add_argument(
        "--rounds", type=int, default=2, help="times four windows of a hundred experiments beside the page"
    )
    one = names.add_parser("sandbox", help="the cost of the sandbox around a candidate")
    one.add_argument("--starts", type=int, default=40, help="number of starts, bare and in the sandbox in turn")
    one.add_argument("--kills", type=int, default=5, help="number of process trees that respawn")
    _add_trust(names)
    names.add_parser("faults", help="faults of small models and their servers, and their costs")
    one = names.add_parser("replay", help="the steps at which stored answers of models fail with the present code")
    one.add_argument("--state", type=Path, required=True, metavar="DIR", help="the state folder of a run")
    one = names.add_parser(
        "models", help="ask models the stored questions of a run, and count what becomes of the answers"
    )
    one.add_argument("models", nargs="+", metavar="MODEL")
    one.add_argument("--state", type=Path, required=True, metavar="DIR", help="the state folder of a run")
    one.add_argument("--url", help="base URL of an OpenAI-compatible endpoint; Ollama if not given")
    one.add_argument("--ollama-host", default="", metavar="ADDRESS", help="address of Ollama")
    one.add_argument("--questions", type=int, default=models.QUESTIONS, help="number for each model")
    one.add_argument("--trials", action="store_true", help="train each valid candidate; needs a trial's time for each")
    names.add_parser("dry-runs", help="verdicts and times of dry runs on broken and harmless edits")
    one = names.add_parser("prefix", help="the part of each prompt that equals the beginning of the one before")
    one.add_argument("--experiments", type=int, default=100)
    one = names.add_parser("record", help="real trials over the knobs, for `proposers`")
    one.add_argument("--file", type=Path, required=True, help="file for the trials; the same file continues")
    one.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared data of `cpu`")
    one.add_argument("--trials", type=int, default=448, help="number in total, a multiple of 28")
    one = names.add_parser("proposers", help="compare proposers in a model of recorded trials")
    one.add_argument("--file", type=Path, help="the file of `record`; the shipped recording if not given")
    one.add_argument("--seeds", type=int, default=20)
    one.add_argument("--trials", type=int, default=100)
    one.add_argument("--sigma", type=float, help="noise of a run's scores; the recording's if not given")
    one.add_argument("--picture", type=Path, metavar="FILE", help="write a PNG of the incumbents' scores")
    _add_real_runs(names)
    return parser.parse_args()


def _add_trust(names: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the benches that test whether a score can be trusted, and at which cost."""
    one = names.add_parser(
        "trust", help="the cost of scoring outside the candidate, and how often an examination catches a look-ahead"
    )
    one.add_argument("--data", type=Path, metavar="DIR", help="prepared data of `cpu`; recreated if not given")
    one.add_argument("--quick", action="store_true", help="fewer runs, two minutes")
    one.add_argument(
        "--beside", type=Path, metavar="DIR", help="measure only the costs, in pairs with the code of another checkout"
    )
    one.add_argument("--pairs", type=int, default=8, help="with --beside: number of pairs; two minutes each")
    one.add_argument(
        "--look", nargs="+", choices=beside.LOOKS, default=beside.LOOKS, help="with --beside: the examinations"
    )
    one = names.add_parser("scoring", help="processor seconds to score a row of logits, as it is done and as it was")
    one.add_argument("--rounds", type=int, default=10, help="number of times that each way is measured, in turn")
    one = names.add_parser("honest", help="whether the examination accepts honest models of many shapes")
    one.add_argument(
        "--looks", type=int, default=400, help="examinations in total, besides a whole trial of each model"
    )
    one.add_argument("--only-looks", action="store_true", help="no whole trials: a minute instead of ten")
    one.add_argument("--model", nargs="+", default=[], metavar="NAME", help="only these of the table")
    one.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    one = names.add_parser("attack", help="whether a generated cheat scores better than honest without being refused")
    one.add_argument("--seed", type=int, default=1, help="seed of the candidates")
    one.add_argument("--count", type=int, default=500)
    one.add_argument("--minutes", type=float, help="start no candidate after so many minutes")
    one.add_argument(
        "--dir", type=Path, metavar="DIR", help="folder for the tried candidates; the same folder continues"
    )
    one.add_argument("--jobs", type=int, help="candidates at a time; one for each core if not given")


def _add_real_runs(names: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = names.add_parser("campaign", help="the gains that real runs confirm")
    one.add_argument("--dir", type=Path, required=True, help="folder of the campaigns; the same folder continues")
    one.add_argument("--proposer", type=Mix, choices=list(Mix), nargs="+", default=[Mix.OPTIMIZER])
    one.add_argument("--campaigns", type=int, default=5)
    one.add_argument("--experiments", type=int, default=20)
    one.add_argument("--budget", type=float, help="seconds of training in a trial; the profile's if not given")
    one.add_argument("--picture", type=Path, metavar="FILE", help="write a PNG of each run's best scores")
    one = names.add_parser("aa", help="a real run of edits that change nothing, under changing load")
    one.add_argument("--dir", type=Path, required=True, help="folder of the run")
    one.add_argument("--experiments", type=int, default=20)
    one.add_argument("--budget", type=float, help="seconds of training in a trial; the profile's if not given")
    one = names.add_parser("unattended", help="a real run in which LLM, trainer and researcher fail again and again")
    one.add_argument("--dir", type=Path, required=True, help="folder of the run; the same folder continues")
    one.add_argument("--experiments", type=int, default=100)
    one.add_argument("--budget", type=float, default=1.5, help="seconds of training in a trial")
    one.add_argument("--picture", type=Path, metavar="FILE", help="write a PNG of memory, open files and seconds")


RUNS: dict[str, Callable[[argparse.Namespace], None]] = {
    "overhead": lambda options: overhead.run(
        options.experiments, options.budget, options.llm_latency, options.proposer
    ),
    "decision": lambda options: decision.run(options.runs, options.experiments),
    "unseen": lambda options: unseen.run(options.claims),
    "scale": lambda options: scale.run(options.experiments, options.optimizer, options.push),
    "page": lambda options: page.run(options.experiments, options.clients, options.rounds),
    "campaign": lambda options: campaign.run(
        options.dir, options.campaigns, options.experiments, options.budget, options.proposer, options.picture
    ),
    "sandbox": lambda options: sandbox.run(options.starts, options.kills),
    "trust": lambda options: (
        beside.run(options.beside, options.pairs, options.look)
        if options.beside is not None
        else trust.run(options.data, quick=options.quick)
    ),
    "scoring": lambda options: scoring.run(options.rounds),
    "honest": lambda options: honest.run(options.looks, options.model, options.workers, trials=not options.only_looks),
    "attack": lambda options: attack.run(options.seed, options.count, options.minutes, options.dir, options.jobs),
    "faults": lambda _: faults.run(),
    "replay": lambda options: replay.replay_proposals(State(options.state), Console()),
    "models": lambda options: models.run(
        State(options.state),
        options.models,
        options.url,
        options.ollama_host,
        options.questions,
        trials=options.trials,
    ),
    "dry-runs": lambda _: dry_runs.run(),
    "prefix": lambda options: prefix.run(options.experiments),
    "record": lambda options: record.run(options.file, options.data, options.trials),
    "proposers": lambda options: proposers.run(
        options.file, options.seeds, options.trials, options.sigma, options.picture
    ),
    "unattended": lambda options: unattended.run(options.dir, options.experiments, options.budget, options.picture),
    "aa": lambda options: aa.run(options.dir, options.experiments, options.budget),
}


def main() -> None:
    """Run one bench."""
    options = _chosen()
    RUNS[options.name](options)


if __name__ == "__main__":
    main()
