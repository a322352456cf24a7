"""Was anything lost, doubled or wrong? Git, journal, results.tsv and the trainer's own results of a run that is over.

It shares no code with what it looks at: SQLite, the git command and JSON, nothing of ours. So it also runs where only
Python and git are: `python3 - STATE < checker.py`. Prints JSON: each fault as a sentence with its kind, and counts.
Does not cover a run that is under way, and several runs in one journal.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

LOST, DOUBLED, WRONG = "lost", "doubled", "wrong"
WALK = ("baseline", "first")  # kinds of trials that an experiment's own decision follows from
OF_THE_MACHINE = ("preempted", "lost")  # outcomes after which a trial is attempted again
FAILURES = ("crashed", "out_of_memory", "timed_out")
LOSSES = 3  # in a row, after which the baseline has to run before one more counts against the candidate
FALLS_BACK = (("claim", "rolled_back"), ("recheck", "rolled_back"), ("recheck", "fails"))

Row = sqlite3.Row
Fault = tuple[str, str]  # its kind, and a sentence


@dataclass(frozen=True)
class FinishedRun:
    """What stands in the journal, and where the rest is."""

    subject: Path
    trials_folder: Path
    run: Row
    experiments: list[Row]
    trials: list[Row]
    confirmations: list[Row]
    requests: list[Row]

    @classmethod
    def read(cls, state: Path) -> FinishedRun:
        database = sqlite3.connect(f"file:{state / 'journal' / 'journal.db'}?mode=ro", uri=True)
        database.row_factory = sqlite3.Row
        (run,) = database.execute("SELECT * FROM run")
        tables = ("experiment", "trial", "confirmation", "request")
        rows = [list(database.execute(f"SELECT * FROM {table} ORDER BY rowid")) for table in tables]
        database.close()
        return cls(state / "subject", state / "trials", run, *rows)

    @property
    def script(self) -> str:
        """The name of the edited file, which the choices of the run have."""
        choices = self.subject.parent / "journal" / "night.json"
        return str(json.loads(choices.read_text()).get("script", "train.py")) if choices.exists() else "train.py"

    @property
    def measured(self) -> list[Row]:
        """Experiments that had a candidate, the baseline left out."""
        return [item for item in self.experiments if item["number"] > 0 and item["outcome"] != "rejected"]

    def place(self, trial: Row) -> str:
        """The name that all attempts of a trial begin with."""
        number = next(item["number"] for item in self.experiments if item["id"] == trial["experiment"])
        return f"{self.run['tag']}-{number}-t{trial['number']}"

    def answers(self, place: str) -> dict[int, dict[str, Any]]:
        """What the trainer measured of a trial, by attempt; without those that an infrastructure failure ended."""
        found = {}
        for path in self.trials_folder.glob(f"{place}-a*/result.json"):
            result = json.loads(path.read_text())
            if result["outcome"] not in OF_THE_MACHINE:
                found[int(path.parent.name.rpartition("-a")[2])] = result
        return found

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", f"safe.directory={self.subject}", "-C", str(self.subject), *arguments]
        environment = {"GIT_OPTIONAL_LOCKS": "0", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.strip() or done.stderr.strip()


def check(state: Path) -> dict[str, Any]:
    """Everything that can be told of a run: `faults`, how many of each kind, and what was counted."""
    finished_run = FinishedRun.read(state)
    faults = [
        *each_experiment_is_decided_once(finished_run),
        *each_trial_has_its_own_answer(finished_run),
        *each_decision_follows_from_its_trial(finished_run),
        *each_confirmation_follows_from_its_trials(finished_run),
        *the_run_is_where_its_decisions_led(finished_run),
        *each_request_is_served_once(finished_run),
        *each_commit_is_in_its_place(finished_run),
        *the_branch_is_the_kept_commits(finished_run),
        *the_work_tree_is_clean(finished_run),
        *the_table_says_the_same(finished_run),
    ]
    kinds = Counter(kind for kind, _ in faults)
    attempts = sum(trial["attempt"] + 1 for trial in finished_run.trials)
    return {
        "faults": [f"{kind}: {sentence}" for kind, sentence in faults],
        **{kind: kinds[kind] for kind in (LOST, DOUBLED, WRONG)},
        "experiments": len(finished_run.measured),
        **{
            name: sum(item["decision"] == name for item in finished_run.measured)
            for name in ("keep", "discard", "crash")
        },
        "trials": len(finished_run.trials),
        "attempts": attempts,
        "unused": sum(len(finished_run.answers(finished_run.place(trial))) for trial in finished_run.trials)
        - len(answered(finished_run)),
        "confirmations": len(finished_run.confirmations),
    }


def answered(finished_run: FinishedRun) -> list[Row]:
    """Trials whose answer is a trainer's; the researcher itself writes down the loss of the last attempt."""
    finished = [trial for trial in finished_run.trials if trial["state"] == "finished" and trial["outcome"] != "lost"]
    return [trial for trial in finished if not was_given_up(finished_run, trial)]


def was_given_up(finished_run: FinishedRun, trial: Row) -> bool:
    """True for a trial that crashed because it was lost again and again, the last time after the baseline had run."""
    baseline = finished_run.experiments[0]["id"]
    seen = any(each["id"] > trial["id"] and each["experiment"] == baseline for each in finished_run.trials)
    lost = trial["faults"] >= LOSSES and trial["attempt"] not in finished_run.answers(finished_run.place(trial))
    return bool(trial["outcome"] == "crashed" and lost and seen)


def each_experiment_is_decided_once(finished_run: FinishedRun) -> Iterator[Fault]:
    numbers = [item["number"] for item in finished_run.experiments]
    if numbers != list(range(len(numbers))):
        yield LOST, f"numbers are not 0, 1, 2, ...: {numbers}"
    for item in finished_run.experiments:
        if item["state"] != "applied" or item["decision"] is None:
            yield LOST, f"experiment {item['number']} is {item['state']}, its decision {item['decision']}"
    fell = rolled_back_by_failing(finished_run)
    for name in ("fingerprint", "commit_sha"):
        codes = [item for item in finished_run.experiments if item["commit_sha"]]
        for value, count in Counter(item[name] for item in codes).items():
            earlier = [item for item in codes if item[name] == value][:-1]
            if name == "fingerprint" and (count == 2 and earlier[0]["id"] in fell):
                continue
            if any(item["outcome"] != "lost" for item in earlier):
                yield DOUBLED, f"{count} experiments have the same {name} {value}"


def rolled_back_by_failing(finished_run: FinishedRun) -> set[int]:
    """Kept experiments that a check threw away because something did not run; such code may be tried once more."""
    parents = {item["id"]: item["parent"] for item in finished_run.experiments}
    fell = set()
    for item in finished_run.confirmations:
        own = [trial for trial in finished_run.trials if trial["confirmation"] == item["id"]]
        failed = item["gain"] is None and all(trial["outcome"] in FAILURES for trial in own[-1:])
        at = item["head"] if failed and (item["kind"], item["verdict"]) in FALLS_BACK else None
        while at is not None and at != item["base"]:
            fell.add(at)
            at = parents[at]
    return fell


def each_trial_has_its_own_answer(finished_run: FinishedRun) -> Iterator[Fault]:
    """The current attempt's, for this work; and the trainer measured nothing that the journal does not know."""
    firsts = Counter(trial["experiment"] for trial in finished_run.trials if trial["kind"] == "first")
    for item in finished_run.measured:
        if firsts[item["id"]] != 1:
            kind = DOUBLED if firsts[item["id"]] else LOST
            yield kind, f"experiment {item['number']} has {firsts[item['id']]} first trials"
    places = {finished_run.place(trial) for trial in finished_run.trials}
    ours = re.compile(rf"({re.escape(finished_run.run['tag'])}-\d+-t\d+)-a\d+")
    on_disk = [match.group(1) for path in finished_run.trials_folder.iterdir() if (match := ours.fullmatch(path.name))]
    if strangers := set(on_disk) - places:
        yield LOST, f"the trainer has trials that the journal does not know: {sorted(strangers)}"
    for trial in finished_run.trials:
        yield from _has_its_own_answer(finished_run, trial)
    for digest, count in Counter(
        json.loads(trial["result"])["spec_digest"] for trial in answered(finished_run)
    ).items():
        if count > 1:
            yield DOUBLED, f"{count} trials have the answer to the same work {digest[:12]}"


def _has_its_own_answer(finished_run: FinishedRun, trial: Row) -> Iterator[Fault]:
    place, answers = finished_run.place(trial), finished_run.answers(finished_run.place(trial))
    current = f"{place}-a{trial['attempt']}"
    if trial["state"] != "finished" or trial["result"] is None:
        yield LOST, f"trial {current} is {trial['state']}"
        return
    if later := [attempt for attempt in answers if attempt > trial["attempt"]]:
        yield WRONG, f"trial {current}: the trainer measured attempts {later} that nobody asked for"
    credited = json.loads(trial["result"])
    if credited["id"] != current:
        yield WRONG, f"trial {current} is credited with the answer of {credited['id']}"
    if (credited["outcome"], credited["val_bpb"]) != (trial["outcome"], trial["val_bpb"]):
        yield WRONG, f"trial {current} is {trial['outcome']} {trial['val_bpb']}, its answer says otherwise"
    if trial["outcome"] == "lost" or was_given_up(finished_run, trial):
        return
    if credited != answers.get(trial["attempt"]):
        yield WRONG, f"trial {current}: the trainer itself has another answer, or none"


def each_decision_follows_from_its_trial(finished_run: FinishedRun) -> Iterator[Fault]:
    """From the answer of its first trial alone; the baseline's score is the mean of its own."""
    for item in finished_run.experiments:
        own = [trial for trial in finished_run.trials if trial["experiment"] == item["id"] and trial["kind"] in WALK]
        if item["decision"] is None or item["outcome"] == "rejected" or not own:
            continue
        if item["number"] == 0:
            scores = [trial["val_bpb"] for trial in own if trial["val_bpb"] is not None]
            score, decision = (fmean(scores) if len(scores) == len(own) else None), "keep"
        else:
            score, decision = own[0]["val_bpb"], _implied(own[0], item["margin"])
        if item["score"] != score or item["outcome"] != own[0]["outcome"]:
            yield WRONG, f"experiment {item['number']} is {item['outcome']} {item['score']}, its trial says otherwise"
        if item["decision"] != decision:
            yield WRONG, f"experiment {item['number']} is a {item['decision']}, its trial makes it a {decision}"


def _implied(trial: Row, margin: float | None) -> str:
    if trial["outcome"] in FAILURES:
        return "crash"
    if trial["val_bpb"] is None or margin is None:
        return "discard"
    return "keep" if trial["score_to_beat"] - trial["val_bpb"] > margin else "discard"


def each_confirmation_follows_from_its_trials(finished_run: FinishedRun) -> Iterator[Fault]:
    for item in finished_run.confirmations:
        if item["state"] != "applied" or item["verdict"] is None:
            yield LOST, f"check {item['id']} is {item['state']}, its verdict {item['verdict']}"
        own = [trial for trial in finished_run.trials if trial["confirmation"] == item["id"]]
        if item["gain"] is None:
            continue
        if len(own) != 2 * item["pairs"]:
            yield DOUBLED if len(own) > 2 * item["pairs"] else LOST, f"claim {item['id']} has {len(own)} trials"
        for side in ("head", "base"):
            scores = [trial["val_bpb"] for trial in own if trial["experiment"] == item[side]]
            if not scores or None in scores or fmean(scores) != item[f"{side}_score"]:
                yield WRONG, f"the {side} of claim {item['id']} is not the mean of its fresh seeds"
        if (item["verdict"] == "confirmed") != (item["gain"] > item["threshold"]):
            yield WRONG, f"claim {item['id']} is {item['verdict']} with a gain of {item['gain']}"


def the_run_is_where_its_decisions_led(finished_run: FinishedRun) -> Iterator[Fault]:
    """All keeps and verdicts in the order of time give the parents, the incumbent and what is confirmed."""
    run, incumbent, confirmed, failed = finished_run.run, None, None, None
    parents = {item["id"]: item["parent"] for item in finished_run.experiments}
    events = [(item["proposed_at"], "proposed", item) for item in finished_run.experiments]
    events += [(item["decided_at"] or 0.0, "decided", item) for item in finished_run.experiments]
    events += [(item["decided_at"] or 0.0, "confirmed", item) for item in finished_run.confirmations]
    for _, what, item in sorted(events, key=lambda event: event[0]):
        if what == "proposed" and item["parent"] != incumbent:
            yield WRONG, f"experiment {item['number']} was built on {item['parent']}, the incumbent was {incumbent}"
        elif what == "decided" and item["decision"] == "keep":
            if item["parent"] != incumbent:
                yield WRONG, f"experiment {item['number']} was kept, and its parent was not the incumbent {incumbent}"
            incumbent = item["id"]
            confirmed = confirmed or incumbent
        elif what == "confirmed" and item["verdict"] == "confirmed":
            confirmed = item["head"]
        elif what == "confirmed" and (item["kind"], item["verdict"]) in FALLS_BACK:
            incumbent = item["base"]
            confirmed = incumbent if incumbent in _line(parents, confirmed) else confirmed
        elif what == "confirmed" and (item["kind"], item["verdict"], item["base"]) == ("claim", "fails", failed):
            confirmed = finished_run.experiments[0]["id"]
        if what == "confirmed" and item["kind"] == "claim":
            failed = item["base"] if item["verdict"] == "fails" else None
    if (run["incumbent"], run["confirmed"]) != (incumbent, confirmed):
        stands = f"incumbent {run['incumbent']}, confirmed {run['confirmed']}"
        yield WRONG, f"the run has {stands}; its decisions led to {incumbent} and {confirmed}"


def _line(parents: dict[int, int | None], at: int | None) -> Iterator[int]:
    """An experiment, its parent, and so on to the baseline."""
    while at is not None:
        yield at
        at = parents[at]


def each_request_is_served_once(finished_run: FinishedRun) -> Iterator[Fault]:
    for request in finished_run.requests:
        became = sum(item["request"] == request["id"] for item in finished_run.experiments)
        if became > 1:
            yield DOUBLED, f"request {request['id']} became {became} experiments"
        if became == 0 and request["kind"] in ("idea", "submit") and request["state"] != "waiting":
            yield LOST, f"request {request['id']} is {request['state']} and became no experiment"


def each_commit_is_in_its_place(finished_run: FinishedRun) -> Iterator[Fault]:
    """Every experiment that was measured is one commit on its parent, holds its code, and has its name."""
    commits = {item["id"]: item["commit_sha"] for item in finished_run.experiments}
    for item in finished_run.measured:
        sha, number = item["commit_sha"], item["number"]
        if sha is None:
            continue
        if finished_run.git("rev-parse", f"refs/overnight/{finished_run.run['tag']}/{number}") != sha:
            yield LOST, f"the ref of experiment {number} is not its commit"
        if finished_run.git("rev-list", "--parents", "--max-count=1", sha).split()[1:] != [commits.get(item["parent"])]:
            yield WRONG, f"the commit of experiment {number} does not stand on its parent"
        if finished_run.git("show", f"{sha}:{finished_run.script}") != item["source"].strip():
            yield WRONG, f"the commit of experiment {number} holds other code"
    refs = finished_run.git(
        "for-each-ref", "--format=%(objectname)", f"refs/overnight/{finished_run.run['tag']}"
    ).split()
    if sorted(refs) != sorted(item["commit_sha"] for item in finished_run.measured if item["commit_sha"]):
        yield WRONG, "the refs are not the experiments, each once"
    for item in finished_run.confirmations:
        tags = finished_run.git("tag", "--points-at", commits[item["head"]]).split()
        if item["verdict"] == "confirmed" and not any(tag.startswith("confirmed/") for tag in tags):
            yield LOST, f"what claim {item['id']} confirmed has no tag"


def the_branch_is_the_kept_commits(finished_run: FinishedRun) -> Iterator[Fault]:
    """From the baseline to the head stand the kept commits; one that is missing was rolled back by a check."""
    by_id = {item["id"]: item for item in finished_run.experiments}
    chain = []
    at = by_id.get(finished_run.run["incumbent"])
    while at is not None and at["number"] != 0:
        chain.append(at)
        at = by_id.get(at["parent"])
    shown = finished_run.git(
        "rev-list", "--reverse", f"{finished_run.run['base_commit']}..{finished_run.run['branch']}"
    ).split()
    if shown != [item["commit_sha"] for item in reversed(chain)]:
        yield WRONG, f"the branch shows {shown}, the journal's line is {[item['number'] for item in reversed(chain)]}"
    if any(item["decision"] != "keep" for item in chain):
        yield WRONG, "the branch holds a commit that was not kept"
    rolled_back = any(item["verdict"] in ("rolled_back", "fails") for item in finished_run.confirmations)
    kept = {item["id"] for item in finished_run.measured if item["decision"] == "keep"}
    if kept != {item["id"] for item in chain} and not rolled_back:
        yield LOST, "a kept commit is not on the branch, and no confirmation rolled it back"


def the_work_tree_is_clean(finished_run: FinishedRun) -> Iterator[Fault]:
    if finished_run.git("symbolic-ref", "HEAD") != f"refs/heads/{finished_run.run['branch']}":
        yield WRONG, "another branch is checked out"
    if changed := finished_run.git("status", "--porcelain"):
        yield WRONG, f"the work tree is not clean: {changed}"
    if broken := finished_run.git("fsck", "--no-dangling", "--no-progress"):
        yield WRONG, f"git fsck: {broken}"
    if left := [str(path) for path in (finished_run.subject / ".git").rglob("*.lock")]:
        yield WRONG, f"left by a killed git: {left}"


def the_table_says_the_same(finished_run: FinishedRun) -> Iterator[Fault]:
    told = [item for item in finished_run.experiments if item["decision"] and item["outcome"] != "rejected"]
    expected = [
        (item["commit_sha"][:7], "—" if item["score"] is None else f"{item['score']:.6f}", item["decision"])
        for item in told
        if item["commit_sha"]
    ]
    table = finished_run.subject / "results.tsv"
    lines = [line.split("\t") for line in table.read_text().splitlines()[1:]] if table.exists() else []
    shown = [(line[0], line[1], line[3]) for line in lines]
    if missing := Counter(expected) - Counter(shown):
        yield LOST, f"results.tsv lacks {sorted(missing)}"
    if more := Counter(shown) - Counter(expected):
        yield DOUBLED if more.keys() <= set(expected) else WRONG, f"results.tsv tells more: {sorted(more)}"
    if not missing and not more and shown != expected:
        yield WRONG, "results.tsv tells the experiments in another order"


if __name__ == "__main__":
    print(json.dumps(check(Path(sys.argv[1]))))
