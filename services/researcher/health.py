"""The researcher's health check: the journal can be read, and the researcher's status in Redis is fresh."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import redis

from researcher.errors import JournalError
from researcher.journal.database import JOURNAL_FILE
from researcher.journal.reader import JournalReader
from services.machine.state import State
from services.views.client import open_bus
from trainer.jobs import StatusKind


def main() -> int:
    """Return 0 if the researcher is healthy, else 1; print one line about it."""
    state = State(Path(os.environ["OVERNIGHT_STATE"]))
    try:
        status = open_bus(state).doing("researcher")
        if (state.journal / JOURNAL_FILE).exists():
            with JournalReader(state.journal) as history:
                history.run()
    except redis.RedisError as error:
        print(f"Redis does not answer: {error}")
        return 1
    except JournalError as error:
        print(error)
        return 1
    print("the researcher says nothing" if status is None else status)
    return 1 if status is None or status.kind is StatusKind.REFUSED else 0


if __name__ == "__main__":
    sys.exit(main())
