"""The stronger, paid model as a proposer: it is asked on a plateau, within its spending limit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from researcher.errors import LlmUnavailable, SpendingLimitReached
from researcher.proposers.availability import CircuitBreaker
from researcher.proposers.draft import Draft, ProposalRequest
from researcher.proposers.escalation import MeteredClient, reason_to_escalate, spent
from researcher.proposers.llm_conversation import Conversation
from researcher.proposers.llm_proposer import Vetting
from researcher.proposers.prompt_context import Briefing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stronger:
    """A paid model, and the metered client that `llm` uses."""

    llm: Conversation
    metered: MeteredClient


class StrongerLlm:
    """Asks `stronger` if `researcher.proposers.escalation` has a reason.

    `alone` is True if no other LLM takes users' ideas.
    """

    def __init__(
        self, stronger: Stronger, vetting: Vetting, briefing: Briefing, *, alone: bool, clock: Callable[[], float]
    ) -> None:
        self._llm = stronger.llm
        self._metered = stronger.metered
        self._vetting = vetting
        self._briefing = briefing
        self._alone = alone
        self._breaker = CircuitBreaker(clock)
        self._cap_reached = False

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """Return None without a reason, after the limit is reached, or while the model is unavailable.

        With another LLM in the run, a user's idea comes first and goes to that LLM.
        """
        if self._cap_reached or (turn.idea is not None and not self._alone):
            return None
        journal = turn.journal
        why = reason_to_escalate(journal.experiments(), journal.paid_calls())
        if why is None or not self._breaker.allows_question(self._llm.check_available):
            return None
        self._metered.why = why
        try:
            context = self._briefing.context(journal, turn.incumbent, model=self._llm.asked_model(turn.incumbent))
            draft = self._vetting.draft(self._llm, context, journal, turn.tick, frozenset())
        except SpendingLimitReached as error:
            self._cap_reached = True
            logger.warning("%s is not asked any more: %s", self._metered.model, error)
            return None
        except LlmUnavailable as error:
            if self._breaker.away is None:
                logger.warning("%s cannot be asked: %s. It is asked again once it is back", self._metered.model, error)
            self._breaker.record_failure(error)
            return None
        self._breaker.record_answer()
        message = "%s was asked: %s; %.4f of %g are spent"
        logger.info(message, self._metered.model, why, spent(journal.paid_calls()), self._metered.cap)
        return draft
