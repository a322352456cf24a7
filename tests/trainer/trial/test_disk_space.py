"""A trial and its disks: no room to begin, none for its result, and whose fault it is when a candidate finds none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.disks import Disk
from tests.fixtures.trials import CAPS, MakeSpec
from trainer.jobs import Outcome, TrialResult, TrialSpec
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import disk_space
from trainer.trial.trial import run_trial

FILLS = "open('filler', 'wb').write(bytes(2**26))\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", "24m")
    yield made
    made.remove()


def run(spec: TrialSpec, config: WorkerConfig) -> TrialResult:
    return run_trial(spec, config, lambda _: None, lambda: False)


@pytest.mark.parametrize("place", ["trials", "work"])
def test_without_room_no_trial_is_begun_and_it_is_said_how_much_is_lacking(
    place: str, disk: Disk, config: WorkerConfig, spec: MakeSpec
) -> None:
    disk.fill()

    result = run(spec("tiny"), replace(config, **{place: disk.folder}))

    assert result.outcome is Outcome.LOST
    assert result.reason.startswith(
        f"it was not begun: the disk of {disk.folder} is full, 0 KiB are free and a trial needs 8192. Next: delete"
    )
    assert result.timing is None


def test_disk_that_is_read_only_has_no_room(disk: Disk) -> None:
    disk.make_read_only()

    assert f"the disk of {disk.folder}/trials is read-only" in (disk_space.why_not_ready(disk.folder / "trials") or "")


@pytest.mark.slow
def test_result_that_cannot_be_stored_is_told_as_lost_and_measured_again_once_there_is_room(
    disk: Disk, config: WorkerConfig, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "NEEDED_BYTES", 0)
    config = replace(config, trials=disk.folder)
    disk.fill()

    lost = run(spec("tiny"), config)
    disk.free()
    again = run(spec("tiny"), config)

    assert (lost.outcome, lost.val_bpb) == (Outcome.LOST, None)
    assert "its result could not be stored: [Errno 28] No space left on device" in lost.reason
    assert again.outcome is Outcome.OK


@pytest.mark.slow
def test_candidate_that_fills_the_disk_has_crashed_and_the_next_has_room_again(
    disk: Disk, config: WorkerConfig, spec: MakeSpec
) -> None:
    config = replace(config, work=disk.folder)

    filled = run(spec(FILLS, caps=replace(CAPS, file_mib=1024)), config)
    after = run(spec("tiny", trial="e-1-t0-a1"), config)

    assert filled.outcome is Outcome.CRASHED
    assert filled.reason == "it filled the disk of the work folder: OSError: [Errno 28] No space left on device"
    assert after.outcome is Outcome.OK


@pytest.mark.slow
def test_candidate_that_finds_a_disk_filled_by_others_is_lost_to_the_machine(
    disk: Disk, config: WorkerConfig, spec: MakeSpec
) -> None:
    waits = "import os\nwhile os.statvfs('.').f_bavail:\n    pass\nopen('mine', 'wb').write(bytes(2**20))\n"

    result = run_trial(spec(waits), replace(config, work=disk.folder), lambda _: disk.fill(), lambda: False)

    assert result.outcome is Outcome.LOST
    assert "it found no room on the disk, and there is none without its files: the disk of" in result.reason
