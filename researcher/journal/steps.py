"""A step of the journal: one guarded change, and those of a check.

Each method is one transaction and names the state it starts from; see `researcher.journal.writer`, which adds the other
steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from researcher.errors import JournalError
from researcher.journal.database import transaction
from researcher.journal.reader import JournalReader
from researcher.journal.records import CONFIRM, CheckKind, Claim, Confirmation, RequestState, Run, Verdict


class CheckSteps(JournalReader):
    """The steps of a check, and what any step is made of."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, writable=True)

    def open_check(self, run: Run, kind: CheckKind, head: int, base: int | None, pairs: int, at: float) -> None:
        """Ask for fresh trials."""
        self._change(
            "INSERT INTO confirmation (run, kind, head, base, pairs, state, started_at)"
            " VALUES (?, ?, ?, ?, ?, 'measuring', ?)",
            run.id, kind, head, base, pairs, at,
        )  # fmt: skip

    def one_more_pair(self, check: Confirmation) -> None:
        """The scores could not tell yet."""
        self._change(
            "UPDATE confirmation SET pairs = pairs + 1 WHERE id = ? AND pairs = ? AND state = 'measuring'",
            check.id, check.pairs,
        )  # fmt: skip

    def decide_claim(self, check: Confirmation, verdict: Verdict, claim: Claim, sigma: float, at: float) -> None:
        """Confirm the head or go back to the base, and move the run's marks: one transaction."""
        with transaction(self._database):
            self._change(
                "UPDATE confirmation SET state = 'decided', verdict = ?, reason = ?, gain = ?, threshold = ?,"
                " sigma = ?, unseen_gain = ?, head_score = ?,"
                " base_score = ?, decided_at = ? WHERE id = ? AND state = 'measuring'",
                verdict, claim.reason, claim.gain, claim.threshold, sigma, claim.unseen_gain, claim.head_score,
                claim.base_score, at, check.id,
            )  # fmt: skip
            if verdict is Verdict.CONFIRMED:
                self._move("confirmed", check.head)
            else:
                assert check.base is not None
                self._move("incumbent", check.base)
            self._answer_confirm(f"{verdict.words}: {claim.reason}", at)

    def decide_check(
        self, check: Confirmation, verdict: Verdict, reason: str, at: float, *, fall_back_to: int | None = None,
        confirmed: int | None = None,
    ) -> None:  # fmt: skip
        """Close a check without a comparison: the head still works, or it does not and the run falls back.

        What falls behind the last confirmed state takes that mark along. `confirmed` moves that mark alone.
        """
        with transaction(self._database):
            self._change(
                "UPDATE confirmation SET state = 'decided', verdict = ?, reason = ?, decided_at = ?,"
                " base = COALESCE(base, ?) WHERE id = ? AND state = 'measuring'",
                verdict, reason, at, fall_back_to, check.id,
            )  # fmt: skip
            if fall_back_to is not None:
                self._move("incumbent", fall_back_to)
                self._database.execute("UPDATE run SET confirmed = ?1 WHERE confirmed > ?1", (fall_back_to,))
            if confirmed is not None:
                self._move("confirmed", confirmed)
            if fall_back_to is not None or check.kind is CheckKind.CLAIM:
                self._answer_confirm(f"{verdict.words}: {reason}", at)

    def check_applied(self, check: Confirmation, at: float) -> None:
        """Git and the projections follow."""
        self._change(
            "UPDATE confirmation SET state = 'applied', applied_at = ? WHERE id = ? AND state = 'decided'",
            at, check.id,
        )  # fmt: skip

    def _answer_confirm(self, answer: str, at: float) -> None:
        """Whoever asked for the claim, or asked while there was something to claim, is answered by what came of it."""
        self._database.execute(
            "UPDATE request SET state = ?, answer = ?, done_at = ? WHERE kind = ? AND state = 'waiting'",
            (RequestState.DONE, answer, at, CONFIRM),
        )

    def _move(self, mark: str, experiment: int) -> None:
        self._database.execute(
            f"UPDATE run SET {mark} = ? WHERE id = (SELECT run FROM experiment WHERE id = ?)", (experiment, experiment)
        )

    def _change(self, statement: str, *values: Any) -> None:
        if self._database.execute(statement, values).rowcount == 0:
            raise JournalError(
                f"a step does not fit the journal's state: {statement.split(' WHERE', maxsplit=1)[0]} {values}"
            )
