"""What a candidate can reach, as ourselves and under another uid: tests/fixtures/battery.py in a whole trial.

The third column, the shipped container, is tried in tests/compose/test_isolation.py.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import TESTS
from tests.fixtures import battery
from tests.fixtures.battery import BATTERY, Elsewhere, Report
from tests.fixtures.trials import CAPS, STEPS, MakeSpec, Run, as_other_user, everything_dead
from tests.mutations.test_guards_are_tested import copied
from tests.mutations.test_guards_are_tested import run as run_copied
from trainer.jobs import Outcome, TrialResult, profile_named
from trainer.sandbox import syscalls
from trainer.sandbox.landlock import abi
from trainer.sandbox.launch import User, UserRefused
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

# stdin, two buffers and the weights, the log twice, the wire
GIVEN = ["/dev/null", "/memfd", "/memfd", "/memfd", "pipe", "pipe", "socket"]
ENVIRONMENT = {
    "CUDA_CACHE_PATH", "HOME", "LANG", "OMP_NUM_THREADS", "OVERNIGHT_DATA", "OVERNIGHT_SEED", "OVERNIGHT_WORK", "PATH",
    "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONUNBUFFERED", "PYTORCH_ALLOC_CONF", "TMPDIR",
    "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS", "TRITON_CACHE_DIR", "USER", "XDG_CACHE_HOME",
}  # fmt: skip
PASSED_ON = {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LD_LIBRARY_PATH"}


NEIGHBOUR = """\
import sys
from trainer.sandbox import syscalls
syscalls.drop_capabilities()
print(flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Attacked:
    """What came of it, and what was left behind once it was over."""

    result: TrialResult
    report: Report
    left: list[Path]


@pytest.fixture
def attack(
    spec: MakeSpec, config: WorkerConfig, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Attacked]]:
    """A candidate that tries everything, with all of it within reach."""
    folder = config.trials.parent
    password, repository, shared = folder / "password", folder / "repository", Path(f"/dev/shm/left-{os.getpid()}")
    password.write_text("sesame")
    password.chmod(0o600)
    repository.mkdir()
    monkeypatch.setenv("REDIS_PASSWORD", "sesame")
    syscalls.become_undumpable()  # as the worker is
    with ExitStack() as listening:
        neighbour = listening.enter_context(
            subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == b"\n"
        server = listening.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract, path = f"overnight-test-{os.getpid()}", folder / "open"
        for address in (f"\0{abstract}", str(path)):
            service = listening.enter_context(socket.socket(socket.AF_UNIX))
            service.bind(address)
            service.listen()
        path.chmod(0o777)
        targets = {
            "server": server.getsockname()[:2],
            "abstract": abstract,
            "path": str(path),
            "password": str(password),
            "data": str(config.data),
            "trials": str(config.trials),
            "work": str(config.work),
            "code": str(TESTS.parent / "trainer"),
            "repository": str(repository),
            "shared": str(shared),
            "daemon": f"1000.{os.getpid()}",
            "neighbour": neighbour.pid,
        }
        os.utime(config.data / "token_bytes.npy", (0, (config.data / "token_bytes.npy").stat().st_mtime))

        def try_all() -> Attacked:
            result = run(spec(battery.source(targets)))
            assert result.log is not None, result.reason
            report = Report.read((config.trials / result.log.path).read_text())
            assert b"1000.%d" % os.getpid() not in b"".join(map(command_line, Path("/proc").glob("[0-9]*")))
            assert everything_dead(config.work)
            return Attacked(result, report, [shared] if shared.exists() else [])

        yield try_all
    shared.unlink(missing_ok=True)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def test_candidate_of_our_own_uid_finds_the_battery_as_the_table_has_it(
    attack: Callable[[], Attacked], config: WorkerConfig
) -> None:
    attacked = attack()

    assert attacked.report.unlike("same_uid", own_root="read-only-mounts" in attacked.result.layers) == []
    nature = attacked.report.nature
    assert nature["uids"] == [os.getuid()] * 3
    assert nature["capabilities"] == 0
    closed = abi() > 0 or "read-only-mounts" in attacked.result.layers
    elsewhere = [place for place in nature["writable"] if not place.startswith(str(config.work))]
    assert elsewhere == ["/dev/shm"] or not closed
    assert_common(attacked)
    assert "other-uid" not in attacked.result.layers
    assert bool(attacked.left) == ("own-shared-memory" not in attacked.result.layers)


@as_other_user
def test_candidate_of_another_uid_finds_the_battery_as_the_table_has_it(
    attack: Callable[[], Attacked], user: User
) -> None:
    groups = os.getgroups()
    os.setgroups([*groups, user.gid + 1])
    try:
        attacked = attack()
    finally:
        os.setgroups(groups)

    assert attacked.report.unlike("other_uid", own_root="read-only-mounts" in attacked.result.layers) == []
    nature = attacked.report.nature
    assert (nature["uids"], nature["gids"], nature["groups"]) == ([user.uid] * 3, [user.gid] * 3, [])
    assert nature["capabilities"] == 0
    assert nature["tasks"] == [4 * CAPS.processes] * 2
    assert_common(attacked)
    assert {"other-uid", "process-limit"} <= set(attacked.result.layers)
    assert attacked.left == []


@pytest.mark.slow
@pytest.mark.parametrize(("version", "own_root"), [(0, True), (0, False), (1, False), (4, False)])
def test_table_holds_where_the_kernel_has_less_of_landlock(version: int, own_root: bool) -> None:
    told, mounted = "return max(int(version), 0)", ".returncode == 0\n"
    columns = (
        test_candidate_of_our_own_uid_finds_the_battery_as_the_table_has_it,
        test_candidate_of_another_uid_finds_the_battery_as_the_table_has_it,
    )
    with copied() as folder:
        wall = folder / "trainer" / "sandbox" / "landlock.py"
        assert wall.read_text().count(told) == 1
        wall.write_text(wall.read_text().replace(told, f"return {min(version, abi())}"))
        if not own_root:
            launch = folder / "trainer" / "sandbox" / "launch.py"
            assert launch.read_text().count(mounted) == 1
            launch.write_text(launch.read_text().replace(mounted, ".returncode < 0\n"))

        done = run_copied(folder, *(f"trainer/sandbox/test_confinement.py::{column.__name__}" for column in columns))

    assert done.returncode == 0, done.stdout


def assert_common(attacked: Attacked) -> None:
    """What holds under every uid."""
    nature, layers = attacked.report.nature, attacked.result.layers
    assert set(nature["environment"]) - PASSED_ON == ENVIRONMENT
    # a newer libffi keeps its own file open in every process with callbacks of ctypes
    assert [name for name in nature["descriptors"] if "/libffi.so" not in name] == GIVEN
    assert nature["leads its session"]
    assert nature["ends with its guardian by"] == signal.SIGKILL
    assert nature["out of memory first"] == "1000"
    assert nature["core_bytes"] == [0, 0]
    assert nature["file_bytes"] == [CAPS.file_mib * 2**20] * 2
    assert nature["files"] == [4096] * 2
    assert (nature["no_new_privileges"], nature["seccomp"]) == ("1", "2")
    assert {"seccomp", "no-new-privileges", "no-capabilities"} <= set(layers)
    assert (f"landlock-{abi()}" in layers) == (abi() > 0)


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize(
    "test",
    [
        cell.test
        for row in BATTERY
        for cell in (row.same_uid, row.other_uid, row.container)
        if isinstance(cell, Elsewhere)
    ],
)
def test_cell_of_the_battery_that_is_asserted_elsewhere_is(test: str) -> None:
    file, _, name = test.partition("[")[0].partition("::")

    assert f"def {name}(" in (TESTS / file).read_text()


@as_other_user
def test_candidate_that_cannot_be_started_is_lost_and_no_layer_is_claimed(
    spec: MakeSpec, run: Run, config: WorkerConfig
) -> None:
    os.chown(config.work, 0, 0)
    config.work.chmod(0o555)

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
@pytest.mark.parametrize("user", ["same-uid", "other-uid"], indirect=True)
def test_worker_of_a_dataloader_hands_tensors_over_however_long_the_path_of_the_state_is(
    spec: MakeSpec, config: WorkerConfig
) -> None:
    deep = config.work.parent / ("deep" * 20)
    deep.mkdir()
    config = dataclasses.replace(config, work=config.work.rename(deep / "work"))
    before = shared_by_torch()

    result = run_trial(spec("loads_in_a_worker"), config, lambda _: None, lambda: False)

    assert result.log is not None
    if not {"own-shared-memory", "other-uid"} & set(result.layers):
        pytest.skip("needs the right to mount, or to make a user namespace: what is left in shared memory stays")
    assert "loaded 8.0" in result.log.tail, result.log.tail
    assert shared_by_torch() <= before


def shared_by_torch() -> set[str]:
    """Whatever else this machine's other programs keep there."""
    return {name for name in os.listdir("/dev/shm") if "torch" in name}


@pytest.mark.slow
def test_compiling_loading_with_workers_and_saving_work_inside(spec: MakeSpec, run: Run) -> None:
    caps = profile_named("cpu").caps
    result = run(spec("uses_torch", budget=dataclasses.replace(STEPS, setup_s=300), caps=caps))

    assert result.log is not None
    assert "all of it works" in result.log.tail, (result.reason, result.log.tail)
