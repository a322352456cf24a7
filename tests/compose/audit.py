"""An independent look at a night that is over: git, journal, results.tsv and the trainer's results must agree.

Runs in a container of its own with the stack's volumes: `python3 - < audit.py`. It asks git and SQLite and shares no
code with what it looks at. Prints JSON: what is wrong, in sentences, and what was counted.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SUBJECT, JOURNAL, TRIALS = Path("/state/subject"), Path("/state/journal/journal.db"), Path("/state/trials")
LOST_TO_THE_MACHINE = ("preempted", "lost")

Row = sqlite3.Row


def main() -> None:
    database = sqlite3.connect(f"file:{JOURNAL}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    (run,) = database.execute("SELECT * FROM run")
    experiments = list(database.execute("SELECT * FROM experiment ORDER BY id"))
    trials = list(database.execute("SELECT * FROM trial ORDER BY id"))
    checks = list(database.execute("SELECT * FROM confirmation ORDER BY id"))
    faults = [
        *each_experiment_once(experiments),
        *each_trial_once(run, experiments, trials),
        *each_commit_in_its_place(run, experiments),
        *branch_is_the_kept_commits(run, experiments, checks),
        *work_tree_is_clean(run),
        *table_says_the_same(experiments),
    ]
    measured = [item for item in experiments[1:] if item["outcome"] != "rejected"]
    counted = {"experiments": len(measured), "trials": len(trials), "checks": len(checks)}
    decided = Counter(item["decision"] for item in experiments[1:] if item["outcome"] != "rejected")
    print(json.dumps({"faults": faults, "again": sum(trial["attempt"] for trial in trials), **counted, **decided}))


def each_experiment_once(experiments: list[Row]) -> Iterator[str]:
    if [item["number"] for item in experiments] != list(range(len(experiments))):
        yield f"numbers are not 0, 1, 2, ...: {[item['number'] for item in experiments]}"
    for item in experiments:
        if item["state"] != "applied":
            yield f"experiment {item['number']} is {item['state']}"
    for code, count in Counter(item["fingerprint"] for item in experiments if item["commit_sha"]).items():
        if count > 1:
            yield f"{count} experiments measured the same code {code}"


def each_trial_once(run: Row, experiments: list[Row], trials: list[Row]) -> Iterator[str]:
    """The journal's trials are what the trainer measured, and nothing was measured a second time."""
    numbers = {item["id"]: item["number"] for item in experiments}
    firsts = Counter(trial["experiment"] for trial in trials if trial["kind"] == "first")
    for item in experiments[1:]:
        if item["outcome"] != "rejected" and firsts[item["id"]] != 1:
            yield f"experiment {item['number']} has {firsts[item['id']]} first trials"
    expected = set()
    for trial in trials:
        place = f"{run['tag']}-{numbers[trial['experiment']]}-t{trial['number']}"
        expected.add(place)
        if trial["state"] != "finished":
            yield f"trial {place} is {trial['state']}"
        found = measured(place, of_baseline=trial["kind"] == "baseline")
        if found != [f"{place}-a{trial['attempt']}"]:
            yield f"trial {place}: the journal has attempt {trial['attempt']}, the trainer measured {found}"
    strangers = {folder.name.rpartition("-a")[0] for folder in TRIALS.iterdir() if folder.is_dir()} - expected
    if strangers:
        yield f"the trainer has trials that the journal does not know: {sorted(strangers)}"


def measured(place: str, *, of_baseline: bool) -> list[str]:
    """Ids of the attempts with a result that counts. A baseline that fails is the machine's fault, and tried again."""
    results = [json.loads(path.read_text()) for path in TRIALS.glob(f"{place}-a*/result.json")]
    if of_baseline:
        return sorted(result["id"] for result in results if result["outcome"] == "ok")
    return sorted(result["id"] for result in results if result["outcome"] not in LOST_TO_THE_MACHINE)


def each_commit_in_its_place(run: Row, experiments: list[Row]) -> Iterator[str]:
    """Every experiment that was measured is one commit on its parent, holds its code, and has its name."""
    commits = {item["id"]: item["commit_sha"] for item in experiments}
    for item in experiments[1:]:
        if item["outcome"] == "rejected":
            continue
        sha = item["commit_sha"]
        if git("rev-parse", f"refs/overnight/{run['tag']}/{item['number']}") != sha:
            yield f"the ref of experiment {item['number']} is not its commit"
        if git("rev-list", "--parents", "--max-count=1", sha).split()[1:] != [commits[item["parent"]]]:
            yield f"the commit of experiment {item['number']} does not stand on its parent"
        if git("show", f"{sha}:train.py") != item["source"].strip():
            yield f"the commit of experiment {item['number']} holds other code"
    refs = git("for-each-ref", "--format=%(objectname)", "refs/overnight").split()
    if len(set(refs)) != len(refs) or set(refs) != {
        item["commit_sha"] for item in experiments[1:] if item["commit_sha"]
    }:
        yield "the refs are not the experiments, each once"


def branch_is_the_kept_commits(run: Row, experiments: list[Row], checks: list[Row]) -> Iterator[str]:
    """From the baseline to the head stand the kept commits; one that is missing was rolled back by a check."""
    by_id = {item["id"]: item for item in experiments}
    chain = []
    at = by_id[run["incumbent"]]
    while at["number"] != 0:
        chain.append(at)
        at = by_id[at["parent"]]
    shown = git("rev-list", "--reverse", f"{run['base_commit']}..{run['branch']}").split()
    if shown != [item["commit_sha"] for item in reversed(chain)]:
        yield f"the branch shows {shown}, the journal's line is {[item['number'] for item in reversed(chain)]}"
    if any(item["decision"] != "keep" for item in chain):
        yield "the branch holds a commit that was not kept"
    rolled_back = any(check["verdict"] in ("rolled_back", "fails") for check in checks)
    kept = {item["id"] for item in experiments[1:] if item["decision"] == "keep"}
    if kept != {item["id"] for item in chain} and not rolled_back:
        yield "a kept commit is not on the branch, and no check rolled it back"


def work_tree_is_clean(run: Row) -> Iterator[str]:
    if git("symbolic-ref", "HEAD") != f"refs/heads/{run['branch']}":
        yield "another branch is checked out"
    if changed := git("status", "--porcelain"):
        yield f"the work tree is not clean: {changed}"
    if broken := git("fsck", "--no-dangling", "--no-progress"):
        yield f"git fsck: {broken}"
    if left := [str(path) for path in (SUBJECT / ".git").rglob("*.lock")]:
        yield f"left by a killed git: {left}"


def table_says_the_same(experiments: list[Row]) -> Iterator[str]:
    shown = [line.split("\t") for line in (SUBJECT / "results.tsv").read_text().splitlines()[1:]]
    told = [item for item in experiments if item["decision"] and item["outcome"] != "rejected"]
    if [line[0] for line in shown] != [item["commit_sha"][:7] for item in told]:
        yield "results.tsv does not list the experiments, each once"
    if [line[3] for line in shown] != [item["decision"] for item in told]:
        yield "results.tsv tells other decisions"
    if [line[1] for line in shown] != ["—" if item["score"] is None else f"{item['score']:.6f}" for item in told]:
        yield "results.tsv tells other scores"


def git(*arguments: str) -> str:
    command = ["git", "-c", f"safe.directory={SUBJECT}", "-C", str(SUBJECT), *arguments]
    environment = {"GIT_OPTIONAL_LOCKS": "0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip()


main()
