"""What a candidate can reach, as ourselves and under another uid: a whole trial of a subject that tries."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.trainer.conftest import CAPS, STEPS, SUBJECTS, MakeSpec, as_other_user
from trainer.jobs import Outcome, TrialResult, TrialSpec, profile_named
from trainer.landlock import abi
from trainer.launch import User, UserRefused
from trainer.trial import Places

Run = Callable[[TrialSpec], TrialResult]

HARMLESS = {
    "read the training rows",
    "write at home",
    "start and hear a process",
    "share memory with a process",
    "run a thread",
    "name its user",
}


@pytest.fixture
def prying(spec: MakeSpec, places: Places) -> Iterator[TrialSpec]:
    """The subject, told where everything is."""
    secret = places.trials.parent / "secret"
    secret.write_text("pass")
    secret.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        targets = {
            "port": server.getsockname()[1],
            "secret": str(secret),
            "val": str(places.data / "private" / "val.npy"),
            "trainer": os.getpid(),
            "trials": str(places.trials),
            "data": str(places.data),
            "work": str(places.work),
        }
        source = (SUBJECTS / "pries.py").read_text()
        yield spec(source.replace("TARGETS = {}", f"TARGETS = {targets!r}"))
    (places.data / "forged").unlink(missing_ok=True)


def could(log: str) -> set[str]:
    return set(re.findall(r"^could: (.*)", log, re.MULTILINE))


@pytest.mark.skipif(abi() < 6, reason="needs Landlock with signals, Linux 6.12")
def test_candidate_of_our_own_uid_reaches_nothing_but_its_folder(prying: TrialSpec, run: Run) -> None:
    result = run(prying)

    assert result.log is not None
    assert could(result.log.tail) == HARMLESS, (result.reason, result.log.tail)
    assert {"seccomp", "no-new-privileges", "no-capabilities", f"landlock-{abi()}"} <= set(result.layers)
    assert "other-uid" not in result.layers
    assert "CapEff:\t0000000000000000" in result.log.tail
    assert "NoNewPrivs:\t1" in result.log.tail
    assert "Seccomp:\t2" in result.log.tail


@as_other_user
def test_candidate_of_another_uid_reaches_nothing_but_its_folder(prying: TrialSpec, run: Run, user: User) -> None:
    result = run(prying)

    assert result.log is not None
    assert could(result.log.tail) == HARMLESS, result.log.tail
    assert {"seccomp", "no-new-privileges", "other-uid", "process-limit"} <= set(result.layers)
    assert f"Uid:\t{user.uid}\t{user.uid}\t{user.uid}\t{user.uid}" in result.log.tail
    assert "Groups:\n" in result.log.tail
    assert "CapEff:\t0000000000000000" in result.log.tail
    assert f"Tasks: {4 * CAPS.processes}" in result.log.tail


@as_other_user
def test_candidate_that_cannot_be_started_is_lost_and_no_layer_is_claimed(
    spec: MakeSpec, run: Run, places: Places
) -> None:
    os.chown(places.work, 0, 0)
    places.work.chmod(0o555)

    result = run(spec("tiny"))

    assert result.outcome is Outcome.LOST
    assert result.reason.startswith("the trainer could not start it: [Errno 13] Permission denied")
    assert result.layers == ()


@pytest.mark.parametrize("text", ["0", "1000", "1000:64001", "65534", "candidate", ":64001", "-1"])
def test_user_that_may_be_somebodys_is_refused(text: str) -> None:
    with pytest.raises(UserRefused, match="64001"):
        User.parse(text)


def test_group_is_the_uid_unless_it_is_named() -> None:
    assert User.parse("64001") == User(64001, 64001)
    assert User.parse("64001:70000") == User(64001, 70000)


@pytest.mark.slow
def test_compiling_loading_with_workers_and_saving_work_inside(spec: MakeSpec, run: Run) -> None:
    caps = profile_named("cpu").caps
    result = run(spec("uses_torch", budget=dataclasses.replace(STEPS, setup_s=300), caps=caps))

    assert result.log is not None
    assert "all of it works" in result.log.tail, (result.reason, result.log.tail)
