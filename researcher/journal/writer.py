"""Writes the journal: each step of the run is recorded before its consequences.

Each method is one transaction and requires the state that it starts from. A step that does not fit the state raises
JournalError and changes nothing. So each step can be repeated after a crash, and nothing is decided twice.
"""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from researcher.errors import JournalError
from researcher.journal.database import checkpointed_transaction, request_of, run_of, transaction
from researcher.journal.reader import JournalReader
from researcher.journal.records import (
    CONFIRM,
    MEASURED,
    Claim,
    Confirmation,
    ConfirmationKind,
    ConfirmationVerdict,
    Decision,
    Experiment,
    Goal,
    Pause,
    Prices,
    Request,
    RequestState,
    Ruling,
    Run,
    State,
    Trial,
)
from researcher.source.proposal import Candidate, Proposal
from trainer.jobs import BITS_PER_BYTE, Degree, Kind, Metric, Outcome, TrialResult


class Journal(JournalReader):
    """The journal of the one writer. Hold `researcher.journal.database.WriterLock` while using it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, writable=True)

    # Steps of a run

    def start_run(
        self, *, tag: str, profile: str, budget: float, branch: str, base_commit: str, data_sha256: str, seed: int,
        prices: Prices, source: str, fingerprint: str, at: float, seed_key: str | None = None,
        metric: Metric = BITS_PER_BYTE, degree: Degree = Degree.MEASURED, without_unseen_sha256: str | None = None,
    ) -> Run:  # fmt: skip
        """Begin a run with its baseline in one transaction, so that no run without a baseline exists."""
        with checkpointed_transaction(self._database) as database:
            run = database.execute(
                "INSERT INTO run (tag, profile, budget, branch, base_commit, data_sha256, seed, seed_key,"
                " price_per_hour, price_per_mtoken, created_at, metric_name, metric_direction, metric_unit, degree,"
                f" without_unseen_sha256) VALUES ({', '.join('?' * 16)})",
                (tag, profile, budget, branch, base_commit, data_sha256, seed, seed_key, prices.per_hour,
                 prices.per_mtoken, at, *astuple(metric), degree, without_unseen_sha256),
            ).lastrowid  # fmt: skip
            database.execute(
                "INSERT INTO experiment (run, number, title, hypothesis, source, fingerprint, added_lines, state,"
                " commit_sha, proposed_at) VALUES (?, 0, 'baseline', 'the subject as it is', ?, ?, 0, 'committed',"
                " ?, ?)",
                (run, source, fingerprint, base_commit, at),
            )
        return self._one(run_of, "SELECT * FROM run WHERE id = ?", run)

    def pause(self, run: Run, pause: Pause) -> None:
        """Pause the run before the next experiment."""
        self._change("UPDATE run SET paused = ?, pause_cause = ? WHERE id = ?", pause.message, pause.cause, run.id)

    def go_on(self, run: Run, at: float) -> None:
        """End the pause."""
        self._change("UPDATE run SET paused = NULL, pause_cause = NULL, going_since = ? WHERE id = ?", at, run.id)

    def name_data(self, run: Run, whole: str, without_unseen: str | None) -> Run:
        """Record the digests of the run's data. Unseen scores of the open confirmation are dropped if they are of
        another slice, because scores on two slices do not compare."""
        is_open = "confirmation IN (SELECT id FROM confirmation WHERE state <> 'applied')"
        with checkpointed_transaction(self._database) as database:
            database.execute(f"UPDATE trial SET unseen_bpb = NULL WHERE ? <> ? AND {is_open}", (whole, run.data_sha256))
            names = "data_sha256 = ?, without_unseen_sha256 = ?"
            self._change(f"UPDATE run SET {names} WHERE id = ?", whole, without_unseen, run.id)
        return replace(run, data_sha256=whole, without_unseen_sha256=without_unseen)

    def price(self, run: Run, prices: Prices) -> None:
        """Change the prices of the run from its beginning. A price of None keeps the old one."""
        self._change(
            "UPDATE run SET price_per_hour = COALESCE(?, price_per_hour),"
            " price_per_mtoken = COALESCE(?, price_per_mtoken) WHERE id = ?",
            prices.per_hour, prices.per_mtoken, run.id,
        )  # fmt: skip

    def begin(self, run: Run, at: float) -> None:
        """Record a start of the researcher. An ended run continues."""
        self._change("UPDATE run SET ended = NULL, ended_at = NULL, going_since = ? WHERE id = ?", at, run.id)

    def limit(self, run: Run, goal: Goal) -> Run:
        """Record the limits of this start."""
        self._change(
            "UPDATE run SET goal_experiments = ?, goal_until = ?, goal_max_cost = ? WHERE id = ?",
            *astuple(goal), run.id,
        )  # fmt: skip
        return replace(run, goal=goal)

    def end(self, run: Run, reason: str, at: float) -> None:
        """Record that the goal is reached."""
        self._change("UPDATE run SET ended = ?, ended_at = ? WHERE id = ?", reason, at, run.id)

    # Steps of an experiment

    def propose(self, run: Run, proposal: Proposal, candidate: Candidate, at: float) -> Experiment:
        """Record a candidate before git or the queue receives it."""
        return self._insert_experiment(
            run, proposal, at,
            source=candidate.source, fingerprint=candidate.fingerprint, change=candidate.change,
            added_lines=candidate.added_lines, state=State.PROPOSED,
        )  # fmt: skip

    def reject(self, run: Run, proposal: Proposal, reason: str, at: float) -> Experiment:
        """Record a proposal that never becomes a trial."""
        return self._without_trial(run, proposal, Outcome.REJECTED, reason, at)

    def unanswered(self, run: Run, proposal: Proposal, fault: str, at: float) -> Experiment:
        """Record a question to an LLM whose server gave no answer. A user's idea goes on waiting."""
        return self._without_trial(run, replace(proposal, request=None), Outcome.UNANSWERED, fault, at)

    def _without_trial(self, run: Run, proposal: Proposal, outcome: Outcome, reason: str, at: float) -> Experiment:
        return self._insert_experiment(
            run, proposal, at, state=State.APPLIED, outcome=outcome, decision=Decision.DISCARD,
            reason=reason, decided_at=at, applied_at=at,
        )  # fmt: skip

    def _insert_experiment(self, run: Run, proposal: Proposal, at: float, **columns: Any) -> Experiment:
        cost = proposal.cost
        columns |= {
            "run": run.id, "parent": run.incumbent, "proposer": proposal.proposer, "title": proposal.title,
            "hypothesis": proposal.hypothesis, "proposal": json.dumps(proposal.to_json()),
            "request": proposal.request, "proposed_at": at,
        }  # fmt: skip
        if cost is not None:
            columns |= {
                "llm_endpoint": cost.endpoint, "llm_model": cost.model, "llm_calls": cost.calls, "llm_s": cost.seconds,
                "llm_prompt_tokens": cost.prompt_tokens, "llm_answer_tokens": cost.answer_tokens,
                "llm_money": cost.money,
            }  # fmt: skip
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        with transaction(self._database) as database:
            experiment = database.execute(
                f"INSERT INTO experiment (number, {names}) VALUES"
                f" ((SELECT MAX(number) + 1 FROM experiment WHERE run = ?), {marks})",
                (run.id, *columns.values()),
            ).lastrowid
            if proposal.request is not None:
                refused = columns.get("outcome") is Outcome.REJECTED
                state = RequestState.REFUSED if refused else RequestState.DONE
                (number,) = database.execute("SELECT number FROM experiment WHERE id = ?", (experiment,)).fetchone()
                text = f"rejected: {columns['reason']}" if refused else f"became experiment {number}"
                self._close_request(proposal.request, state, text, at)
        assert experiment is not None
        return self.experiment(experiment)

    def committed(self, experiment: Experiment, commit_sha: str) -> None:
        """Record the commit of the candidate."""
        self._change(
            "UPDATE experiment SET state = 'committed', commit_sha = ? WHERE id = ? AND state = 'proposed'",
            commit_sha, experiment.id,
        )  # fmt: skip

    def measuring(self, experiment: Experiment) -> None:
        """Record that the trials begin."""
        self._change("UPDATE experiment SET state = 'measuring' WHERE id = ? AND state = 'committed'", experiment.id)

    def decide(self, experiment: Experiment, outcome: Outcome, ruling: Ruling, sigma: float | None, at: float) -> None:
        """Record the decision, and move the incumbent after a keep, in one transaction.

        A kept baseline is confirmed at once. Raises JournalError for a keep whose parent is not the incumbent, because
        it would drop another keep or bring a rolled-back one back.
        """
        with checkpointed_transaction(self._database):
            self._change(
                "UPDATE experiment SET state = 'decided', outcome = ?, decision = ?, reason = ?, score = ?, margin = ?,"
                " sigma = ?, decided_at = ? WHERE id = ? AND state = 'measuring' AND decision IS NULL",
                outcome, ruling.decision, ruling.reason, ruling.score, ruling.margin, sigma, at, experiment.id,
            )  # fmt: skip
            if ruling.decision is Decision.KEEP:
                self._change(
                    "UPDATE run SET incumbent = ?1 WHERE id = (SELECT run FROM experiment WHERE id = ?1)"
                    " AND incumbent IS (SELECT parent FROM experiment WHERE id = ?1)",
                    experiment.id,
                )
                if experiment.is_baseline:
                    self._move("confirmed", experiment.id)

    def applied(self, experiment: Experiment, at: float) -> None:
        """Record that git shows the decision."""
        self._change(
            "UPDATE experiment SET state = 'applied', applied_at = ? WHERE id = ? AND state = 'decided'",
            at, experiment.id,
        )  # fmt: skip

    # Steps of a trial

    def add_trial(
        self, run: Run, experiment: int, kind: Kind, *, seed: int, at: float,
        score_to_beat: float | None = None, confirmation: int | None = None,
    ) -> Trial:  # fmt: skip
        """Add the next trial of an experiment's candidate."""
        with transaction(self._database) as database:
            trial = database.execute(
                "INSERT INTO trial (run, experiment, confirmation, kind, number, attempt, faults, seed, score_to_beat,"
                " state, queued_at) VALUES (?1, ?2, ?3, ?4, (SELECT COUNT(*) FROM trial WHERE experiment = ?2), 0, 0,"
                " ?5, ?6, 'queued', ?7)",
                (run.id, experiment, confirmation, kind, seed, score_to_beat, at),
            ).lastrowid
        assert trial is not None
        return self.trial(trial)

    def attempt_again(self, trial: Trial, *, fault: bool) -> Trial:
        """Start another attempt with a new id, after an infrastructure failure (`fault`) or a preemption."""
        self._change(
            "UPDATE trial SET attempt = attempt + 1, faults = faults + ? WHERE id = ? AND attempt = ?"
            " AND state = 'queued'",
            int(fault), trial.id, trial.attempt,
        )  # fmt: skip
        return self.trial(trial.id)

    def repeat_trial(self, trial: Trial, machine: str) -> Trial:
        """Start another attempt because the machine's speed was unusual; `machine` describes the difference."""
        self._change(
            "UPDATE trial SET attempt = attempt + 1, repeats = repeats + 1, differed = differed + 1, machine = ?"
            " WHERE id = ? AND attempt = ? AND state = 'queued'",
            machine, trial.id, trial.attempt,
        )  # fmt: skip
        return self.trial(trial.id)

    def set_aside(self, trial: Trial, accident: str, *, failed: bool, limited: bool = True) -> Trial:
        """Start another attempt with the same seed. `accident` describes the possible accident, `limited` if the
        candidate may have caused it, or the failure if code that ran before `failed` for the first time in a row."""
        self._change(
            "UPDATE trial SET attempt = attempt + 1, repeats = repeats + 1, failed = failed + ?1,"
            " disturbed = disturbed + ?2, accident = ?3 WHERE id = ?4 AND attempt = ?5 AND state = 'queued'",
            int(failed), int(limited and not failed), accident, trial.id, trial.attempt,
        )  # fmt: skip
        return self.trial(trial.id)

    def measure_again(self, trial: Trial) -> Trial:
        """Drop the result of the newest trial after an infrastructure failure, and start another attempt. Readers keep
        all earlier trials in memory, so that none of them can be measured again."""
        self._change(
            "UPDATE trial SET state = 'queued', attempt = attempt + 1, faults = 0, outcome = NULL, reason = NULL,"
            f" result = NULL, finished_at = NULL, {', '.join(f'{name} = NULL' for name in MEASURED)},"
            " differed = 0, machine = NULL, repeats = repeats + 1, disturbed = 0, failed = 0, accident = NULL"
            " WHERE id = ? AND state = 'finished' AND val_bpb IS NULL AND id = (SELECT MAX(id) FROM trial)",
            trial.id,
        )
        return self.trial(trial.id)

    def finish_trial(self, trial: Trial, result: TrialResult, at: float, machine: str | None = None) -> Trial:
        """Record the result of the current attempt. `machine` describes an unusual speed without another repeat."""
        self._change(
            "UPDATE trial SET state = 'finished', outcome = ?, reason = ?, result = ?, finished_at = ?,"
            f" {', '.join(f'{name} = ?' for name in MEASURED)}, differed = differed + ?,"
            " machine = COALESCE(?, machine) WHERE id = ? AND attempt = ? AND state = 'queued'",
            result.outcome, result.reason, json.dumps(result.to_json()), at,
            *(getattr(result, name) for name in MEASURED), machine is not None, machine,
            trial.id, trial.attempt,
        )  # fmt: skip
        return self.trial(trial.id)

    # Steps of a paid call

    def begin_call(self, *, why: str, endpoint: str, model: str, cap: float, worst: float) -> int:
        """Record a paid call before it is made, with its highest possible cost. Return its id."""
        with transaction(self._database) as database:
            call = database.execute(
                "INSERT INTO paid_call (run, after, why, endpoint, model, cap, worst) VALUES"
                " ((SELECT MAX(id) FROM run), (SELECT MAX(id) FROM experiment), ?, ?, ?, ?, ?)",
                (why, endpoint, model, cap, worst),
            ).lastrowid
        assert call is not None
        return call

    def end_call(
        self, call: int, *, prompt_tokens: int | None, answer_tokens: int | None, money: float | None, fault: str | None
    ) -> None:
        """Record the result of a paid call."""
        self._change(
            "UPDATE paid_call SET prompt_tokens = ?, answer_tokens = ?, money = ?, fault = ? WHERE id = ?"
            " AND money IS NULL AND fault IS NULL",
            prompt_tokens, answer_tokens, money, fault, call,
        )  # fmt: skip

    def drop_call(self, call: int) -> None:
        """Delete a paid call that reached no server and cost nothing."""
        self._change("DELETE FROM paid_call WHERE id = ? AND money IS NULL AND fault IS NULL", call)

    # Steps of a request

    def receive(self, request: str, kind: str, body: str, answer: str, *, waiting: bool, at: float) -> Request:
        """Record a request once. A repeated request gets its first answer."""
        self._database.execute(
            "INSERT INTO request (id, kind, body, state, answer, received_at) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO NOTHING",
            (request, kind, body, RequestState.WAITING if waiting else RequestState.DONE, answer, at),
        )
        return self._one(request_of, "SELECT * FROM request WHERE id = ?", request)

    def _close_request(self, request: str, state: RequestState, answer: str, at: float) -> None:
        self._change(
            "UPDATE request SET state = ?, answer = ?, done_at = ? WHERE id = ? AND state = 'waiting'",
            state, answer, at, request,
        )  # fmt: skip

    # Steps of a confirmation, and helpers of all steps

    def begin_confirmation(
        self, run: Run, kind: ConfirmationKind, head: int, base: int | None, pairs: int, at: float
    ) -> None:
        """Open a confirmation."""
        self._change(
            "INSERT INTO confirmation (run, kind, head, base, pairs, state, started_at)"
            " VALUES (?, ?, ?, ?, ?, 'measuring', ?)",
            run.id, kind, head, base, pairs, at,
        )  # fmt: skip

    def one_more_pair(self, confirmation: Confirmation) -> None:
        """Extend a claim by one pair."""
        self._change(
            "UPDATE confirmation SET pairs = pairs + 1 WHERE id = ? AND pairs = ? AND state = 'measuring'",
            confirmation.id, confirmation.pairs,
        )  # fmt: skip

    def decide_claim(self, confirmation: Confirmation, claim: Claim, sigma: float, at: float) -> None:
        """Record a claim's verdict, and move the run's confirmed version or its incumbent, in one transaction."""
        verdict = claim.verdict
        assert verdict is not None, "a claim without a verdict gets one more pair"
        with checkpointed_transaction(self._database):
            self._change(
                "UPDATE confirmation SET state = 'decided', verdict = ?, reason = ?, gain = ?, threshold = ?,"
                " sigma = ?, unseen_gain = ?, head_score = ?,"
                " base_score = ?, decided_at = ? WHERE id = ? AND state = 'measuring'",
                verdict, claim.reason, claim.gain, claim.threshold, sigma, claim.unseen_gain, claim.head_score,
                claim.base_score, at, confirmation.id,
            )  # fmt: skip
            if verdict is ConfirmationVerdict.CONFIRMED:
                self._move("confirmed", confirmation.head)
            else:
                assert confirmation.base is not None
                self._move("incumbent", confirmation.base)
            self._answer_confirm(f"{verdict.words}: {claim.reason}", at)

    def decide_confirmation(
        self, confirmation: Confirmation, verdict: ConfirmationVerdict, reason: str, at: float, *,
        roll_back_to: int | None = None, confirmed: int | None = None,
    ) -> None:  # fmt: skip
        """Decide a confirmation without comparing scores: the head works, or it fails.

        `roll_back_to` becomes the incumbent. If it is an ancestor of the confirmed version, it becomes the confirmed
        version too. `confirmed` changes only the confirmed version.
        """
        with checkpointed_transaction(self._database):
            self._change(
                "UPDATE confirmation SET state = 'decided', verdict = ?, reason = ?, decided_at = ?,"
                " base = COALESCE(base, ?) WHERE id = ? AND state = 'measuring'",
                verdict, reason, at, roll_back_to, confirmation.id,
            )  # fmt: skip
            if roll_back_to is not None:
                self._move("incumbent", roll_back_to)
                run = self.run()
                assert run is not None, "a confirmation belongs to a run"
                if roll_back_to in self.lineage(run.confirmed):
                    self._move("confirmed", roll_back_to)
            if confirmed is not None:
                self._move("confirmed", confirmed)
            if roll_back_to is not None or confirmation.kind is ConfirmationKind.CLAIM:
                self._answer_confirm(f"{verdict.words}: {reason}", at)

    def confirmation_applied(self, confirmation: Confirmation, at: float) -> None:
        """Record that git shows the verdict."""
        applied = "UPDATE confirmation SET state = 'applied', applied_at = ? WHERE id = ? AND state = 'decided'"
        self._change(applied, at, confirmation.id)

    def _answer_confirm(self, answer: str, at: float) -> None:
        """Answer all waiting requests for a claim with this claim's result."""
        answered = "UPDATE request SET state = ?, answer = ?, done_at = ? WHERE kind = ? AND state = 'waiting'"
        self._database.execute(answered, (RequestState.DONE, answer, at, CONFIRM))

    def _move(self, mark: str, experiment: int) -> None:
        of_run = "id = (SELECT run FROM experiment WHERE id = ?)"
        self._database.execute(f"UPDATE run SET {mark} = ? WHERE {of_run}", (experiment, experiment))

    def _change(self, statement: str, *values: Any) -> None:
        if self._database.execute(statement, values).rowcount == 0:
            raise JournalError(
                f"a step does not fit the journal's state: {statement.split(' WHERE', maxsplit=1)[0]} {values}"
            )
