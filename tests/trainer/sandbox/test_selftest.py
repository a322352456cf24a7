"""The worker tries the sandbox before it works: what it lets through is named, and it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.fixtures.trials import as_user
from trainer.sandbox import selftest
from trainer.sandbox.landlock import abi
from trainer.sandbox.launch import can_own_root
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.selftest import SandboxCheck, Unsafe, check_sandbox

needs_landlock = pytest.mark.skipif(abi() == 0, reason="this kernel has no Landlock")


@pytest.fixture
def password(config: WorkerConfig) -> Path:
    path = config.trials.parent / "password"
    path.write_text("secret")
    path.chmod(0o600)
    return path


@needs_landlock
@as_user
def test_nothing_gets_through_the_walls_as_they_are(config: WorkerConfig, password: Path) -> None:
    sandbox = check_sandbox(config, password)

    assert sandbox.open == ()
    sandbox.require()
    assert ("read-only-mounts" in sandbox.layers) == can_own_root()
    assert ("other-uid" in sandbox.layers) == (config.user is not None)
    assert "seccomp" in sandbox.layers
    assert list(config.work.iterdir()) == []


def test_a_hole_in_the_wall_is_named_and_refused_and_the_filter_still_stands(
    config: WorkerConfig, password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [("/", selftest.grants(config.data)[0][1])]
    monkeypatch.setattr(selftest, "grants", lambda _: everything)

    sandbox = check_sandbox(config, password)

    assert "read the password" in sandbox.open
    assert "read the data that scores" in sandbox.open
    assert "connect to a port of this machine" not in sandbox.open
    with pytest.raises(Unsafe, match=r"could .*read the password.*; run in containers .*--unsafe-local"):
        sandbox.require()


def test_gpu_that_cuda_does_not_start_on_is_refused_by_its_reason() -> None:
    with pytest.raises(Unsafe, match=r"could not use the GPU \(cuInit gives 304\); look at the driver"):
        SandboxCheck((), (), "cuInit gives 304").require()


def test_walls_behind_which_nothing_starts_are_refused_with_what_was_said(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "grants", lambda _: [])
    blocked = dataclasses.replace(config, work=config.work / "absent")

    with pytest.raises(Unsafe, match="no candidate can be started here"):
        check_sandbox(blocked, None)
