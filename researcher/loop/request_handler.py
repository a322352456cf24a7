"""RequestHandler: records each request and its answer in the journal before the answer is sent.

Each request is handled once. Controls (stop, pause, resume) act at once. Ideas and files wait until the next proposal,
and come before the proposers' own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from researcher.errors import EditError, JournalError
from researcher.journal.records import ASKED_TO_PAUSE, ConfirmationKind, Run
from researcher.journal.writer import Journal
from researcher.source.knobs import read_knobs

NAMED_KNOBS = 6


class RequestHandler:
    """Answers requests from the journal.

    `stop` is called with the source of the stop. `why_no_llm` returns the reason why no LLM takes ideas now, or None.
    """

    def __init__(
        self,
        journal: Journal,
        stop: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
        why_no_llm: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._stop = stop
        self._clock = clock
        self._why_no_llm = why_no_llm

    def receive(self, request: str, kind: str, body: str) -> str:
        """Handle one request and return the answer. A repeated request gets its first answer and has no further effect.

        Raises JournalError before the first run has started, and ValueError for an unknown kind.
        """
        if (known := self._journal.request(request)) is not None:
            return known.answer
        answer, waiting = self._decide(kind, body)
        return self._journal.receive(request, kind, body, answer, waiting=waiting, at=self._clock()).answer

    def _decide(self, kind: str, body: str) -> tuple[str, bool]:
        if kind == "stop":
            self._stop("a request")
            return "stopping now; the running trial is measured again at the next start", False
        run = self._journal.run()
        if run is None:
            raise JournalError(
                "the researcher is paused before its first run; send the request again once the run has started"
            )
        match kind:
            case "idea":
                return self._idea(), True
            case "submit":
                return f"taken in; it runs next, as it is{self._differing_knobs(run, body)}", True
            case "confirm":
                return self._confirm(run)
            case "pause":
                self._journal.pause(run, ASKED_TO_PAUSE)
                when = "paused" if self._journal.running_trial() is None else "pausing after this trial"
                return f"{when}; `overnight resume` goes on", False
            case "resume":
                was = "running" if run.pause is None else f"paused ({run.pause.message})"
                self._journal.go_on(run, self._clock())
                return f"going on; it was {was}", False
            case _:
                raise ValueError(f"{kind!r} is no kind of request")

    def _idea(self) -> str:
        why = self._why_no_llm()
        if why is None:
            return "taken in; it is turned into code when the LLM's next turn comes"
        return (
            f"taken in, but no LLM can turn it into code: {why}. It waits until one answers. "
            "Next: start one, or write the change into a train.py and `overnight submit` it"
        )

    def _differing_knobs(self, run: Run, body: str) -> str:
        """Return a warning about knobs that are not those of the run's start, which fits the machine; else nothing."""
        try:
            knobs = read_knobs(body.partition("\n")[2])
        except EditError:
            return ""  # validation refuses the file with its line
        start = read_knobs(self._journal.source(self._journal.numbered(0).id))
        differing = [
            f"{name} {knob.value} (start: {start[name].value})"
            for name, knob in knobs.items()
            if name in start and knob.value != start[name].value
        ]
        if not differing:
            return ""
        more = f" and {len(differing) - NAMED_KNOBS} more" if len(differing) > NAMED_KNOBS else ""
        return (
            f". Note: its knobs differ from the start of the profile {run.profile}: "
            f"{', '.join(differing[:NAMED_KNOBS])}{more}. `overnight best --source` prints a version for this machine"
        )

    def _confirm(self, run: Run) -> tuple[str, bool]:
        if run.incumbent is None or run.confirmed is None:
            return "nothing to confirm: the baseline is still being measured", False
        head = self._journal.experiment(run.incumbent)
        if head.is_baseline:
            return "nothing to confirm: no experiment beats the baseline so far", False
        if run.incumbent == run.confirmed:
            return f"nothing to confirm: experiment {head.number} is confirmed already", False
        confirmation = self._journal.open_confirmation()
        if confirmation is not None and confirmation.kind is ConfirmationKind.CLAIM:
            return f"fresh seeds of experiment {head.number} are being measured already; see `overnight status`", False
        base = self._journal.experiment(run.confirmed)
        when = "after the running trial" if run.pause is None else f"once it goes on (paused: {run.pause.message})"
        return f"taken in; fresh seeds of experiment {head.number} against experiment {base.number} {when}", True
