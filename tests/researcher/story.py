"""A night that is written down and never ran, for what reads a journal."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from researcher.decision.rules import judge_claim
from researcher.journal.records import CheckKind, Decision, Prices, Ruling, Run, Verdict
from researcher.journal.writer import Journal
from researcher.report.view import Night, look
from researcher.source.proposal import Candidate, Edit, LlmCost, Proposal, Proposer, SetKnobs
from trainer.jobs import Kind, Metric, Outcome, Timing, TrialResult, profile_named

PROFILE = profile_named("cpu")


class Story:
    """Writes a night down as the loop would, without running anything.

    With a `heldout_gap`, each trial that is measured is scored on held-out text as well, by so much above its score.
    """

    def __init__(self, folder: Path, heldout_gap: float | None = None, source: str = "A = 1\n") -> None:
        self.journal = Journal(folder)
        self.heldout_gap = heldout_gap
        self.unseen_gap: float | None = None
        self.at = 0.0
        self.journal.start_run(
            tag="t",
            profile="cpu",
            budget=15.0,
            branch="overnight/t",
            base_commit="b" * 40,
            data_sha256="d",
            seed=1,
            prices=Prices(per_hour=3600.0, per_mtoken=10.0),
            source=source,
            fingerprint="f0",
            at=self.tick(),
        )

    @property
    def run(self) -> Run:
        found = self.journal.run()
        assert found is not None
        return found

    def tick(self) -> float:
        self.at += 1.0
        return self.at

    def measure(
        self,
        experiment: int,
        kind: Kind,
        score: float | None,
        confirmation: int | None = None,
        outcome: Outcome = Outcome.OK,
        faults: int = 0,
    ) -> None:
        trial = self.journal.add_trial(
            self.run, experiment, kind, seed=int(self.at), at=self.tick(), confirmation=confirmation
        )
        for _ in range(faults):
            trial = self.journal.attempt_again(trial, fault=True)
        metric = None if score is None else Metric("val_bpb", score)
        gap = self.heldout_gap
        heldout = None if score is None or gap is None else Metric("val_bpb", score + gap)
        unseen = None if score is None or self.unseen_gap is None else Metric("val_bpb", score + self.unseen_gap)
        result = TrialResult(
            "i", "d", outcome, "said", 0.0, 1.0, Timing(2.0, 1.5), metric, heldout, unseen, peak_memory_mib=953.674
        )
        self.journal.finish_trial(trial, result, self.tick())

    def baseline(self, *scores: float) -> None:
        first = self.journal.numbered(0)
        self.journal.measuring(first)
        for score in scores:
            self.measure(first.id, Kind.BASELINE, score)
        mean = sum(scores) / len(scores)
        self.journal.decide(first, Outcome.OK, Ruling(Decision.KEEP, "baseline", mean), 0.01, self.tick())
        self.journal.applied(first, self.tick())

    def try_out(
        self,
        title: str,
        score: float | None,
        decision: Decision,
        outcome: Outcome | None = None,
        faults: int = 0,
        edits: tuple[Edit, ...] = (SetKnobs({"A": 2}),),
        source: str = "A = 2\n",
        by: Proposer = Proposer.LLM,
    ) -> int:
        number = len(self.journal.experiments())
        asked = by in (Proposer.LLM, Proposer.ADVISER)
        cost = LlmCost("u", "m", 1, 400, 100, 2.0) if asked else None
        proposal = Proposal(by, title, "h", edits, cost=cost)
        item = self.journal.propose(self.run, proposal, Candidate(source, f"f{number}", f"c{number}", 0), self.tick())
        self.journal.committed(item, f"{number}" * 40)
        self.journal.measuring(item)
        outcome = outcome or (Outcome.OK if score is not None else Outcome.CRASHED)
        self.measure(item.id, Kind.FIRST, score, outcome=outcome, faults=faults)
        self.journal.decide(item, outcome, Ruling(decision, "because", score, 0.0), 0.01, self.tick())
        self.journal.applied(item, self.tick())
        return item.id

    def claim(self, head: list[float], base: list[float]) -> None:
        assert self.run.incumbent is not None
        assert self.run.confirmed is not None
        self.journal.open_check(
            self.run, CheckKind.CLAIM, self.run.incumbent, self.run.confirmed, len(head), self.tick()
        )
        check = self.journal.open_confirmation()
        assert check is not None
        assert check.base is not None
        for mine, theirs in zip(head, base, strict=True):
            self.measure(check.head, Kind.CONFIRM, mine, check.id)
            self.measure(check.base, Kind.CONFIRM, theirs, check.id)
        claim = judge_claim(head, base, 0.01, None if self.unseen_gap is None else fmean(base) - fmean(head))
        assert claim.verdict is not None
        self.journal.decide_claim(check, claim.verdict, claim, 0.01, self.tick())
        decided = self.journal.open_confirmation()
        assert decided is not None
        self.journal.check_applied(decided, self.tick())

    def fall(self, reason: str) -> None:
        assert self.run.incumbent is not None
        self.journal.open_check(self.run, CheckKind.RECHECK, self.run.incumbent, None, 3, self.tick())
        check = self.journal.open_confirmation()
        assert check is not None
        baseline = self.journal.numbered(0).id
        self.journal.decide_check(check, Verdict.FAILS, reason, self.tick(), fall_back_to=baseline)
        self.journal.check_applied(check, self.tick())

    def night(self) -> Night:
        found = look(self.journal, PROFILE)
        assert found is not None
        return found
