"""A machine that is lost costs one trial: a real run, everything of it deleted, restored and continued."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

import pytest

from researcher.journal.reader import JournalReader
from services.machine.state import State
from tests.scenarios.test_local_run import DEADLINE_S, LocalRun, local_run

__all__ = ["local_run"]


@pytest.mark.slow
def test_a_run_whose_machine_is_lost_goes_on_from_its_backup_and_loses_one_trial(local_run: LocalRun) -> None:
    place, state = local_run.state.parent / "place", State(local_run.state)
    place.mkdir()
    local_run.start("--proposer", "optimizer", "--tag", "lost", "--backup", str(place))
    local_run.wait_until(lambda history: history.measured_count() >= 1 and history.running_trial() is not None)
    local_run.wait_for_candidate()
    for pid in local_run.processes():
        with contextlib.suppress(ProcessLookupError):  # it died with the one that was killed before it
            os.kill(pid, signal.SIGKILL)
    local_run.end()
    local_run.wait_for_silence()
    with JournalReader(state.journal) as history:
        finished = sum(trial.finished for trial in history.trials())
    shutil.rmtree(state.root)

    assert "overnight run --state" in local_run.overnight("restore", str(place))
    with JournalReader(state.journal) as history:
        restored = sum(trial.finished for trial in history.trials())
        measured = history.measured_count()
    again = local_run.start("--experiments", str(measured + 1))

    assert restored >= finished - 1
    assert again.wait(DEADLINE_S) == 0, local_run.output.read_text()[-4000:]
    local_run.wait_for_silence()
    with JournalReader(state.journal) as history:
        assert history.measured_count() == measured + 1
    assert "written: overnight-lost-" in local_run.overnight("backup", str(place))
