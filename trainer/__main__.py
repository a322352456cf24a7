"""`python -m trainer` runs one worker on the queue `trials`, or `dry-runs` with --dry-runs, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Literal

import redis

from trainer.candidate.runner import CONTEXT_MIB
from trainer.jobs import PROFILES, UNNAMED_GPU, RedisClient, WorkerRole, connect
from trainer.jobs.environment import replace_unprintable
from trainer.sandbox import syscalls
from trainer.sandbox.candidate_user import AUTO, SandboxUser, WorkFolderRefused, acquire
from trainer.sandbox.cleanup import NotSwept
from trainer.sandbox.launch import User, UserRefused
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.selftest import Unsafe, check_sandbox
from trainer.stop import StopRequested, request_stop
from trainer.trial import disk_space
from trainer.trial.gpu import gpu_name
from trainer.worker.job_functions import WorkerState, configure
from trainer.worker.orphaned_jobs import take_over
from trainer.worker.rq_worker import JOBS, OneQueueWorker

log = logging.getLogger("trainer")


def main(arguments: list[str] | None = None) -> int:
    """Run the worker until it is stopped, and return the exit code.

    0: stopped, also during the set-up. 1: Redis refuses the password, or does not answer during a stop. 2: the sandbox
    has a hole, or the work folder cannot be used.
    """
    for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):  # until the worker has handlers of its own
        signal.signal(kind, _stop)
    try:
        return _work(arguments)
    except StopRequested:
        signal.setitimer(signal.ITIMER_REAL, 0)
        log.info("stopped before the first job")
        return 0


def _stop(signum: int, frame: FrameType | None) -> None:
    """Raise StopRequested, and again after a second: Python drops one that is raised while a finaliser runs."""
    signal.setitimer(signal.ITIMER_REAL, 1)
    request_stop(signum, frame)


def _work(arguments: list[str] | None) -> int:
    syscalls.become_undumpable()  # before the password is read; forks inherit it
    options = _options(arguments)
    role = WorkerRole.DRY_RUN_WORKER if options.dry_runs else WorkerRole.TRAINER
    job = JOBS[role]
    if options.dry_runs:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # set before any library reads it: a dry run uses no GPU
    replace_unprintable(sys.stdout, sys.stderr)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    name = options.name or f"{role}-{socket.gethostname()}-{os.getpid()}"
    password = options.password_file.read_text(encoding="utf-8").strip() if options.password_file is not None else None
    work = options.work.absolute()
    disk_space.wait_for((work,) if options.trials is None else (options.trials, work), lambda _: True)
    if options.trials is not None:
        options.trials.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        sandbox_user = acquire(work, options.data, options.candidate_user)
        config = WorkerConfig(
            data=options.data,
            trials=options.trials,
            work=work,
            worker=name,
            user=sandbox_user.user,
            vram_cap_mib=options.vram_cap_mib,
            secrets=() if password is None else (password,),
        )
        _log_user(sandbox_user)
        _require_sandbox(config, options)
    except (WorkFolderRefused, NotSwept, Unsafe) as refusal:
        log.error("%s", refusal)
        return 2
    gpu = None if options.dry_runs else _gpu(options.profile)
    no_user = None if sandbox_user.reason is None else sandbox_user.reason.found
    worker_state = WorkerState(
        config, name, options.redis, password, options.profile, lambda: job.refused, no_user, role, gpu
    )
    configure(worker_state)
    heartbeat = replace(worker_state.heartbeat(), file=options.heartbeat_file)
    try:
        _look_for_server(heartbeat.connection)
        connection = connect(options.redis, password=password)
        worker = OneQueueWorker(connection, heartbeat, config, single_host=options.single_host)
        queue = worker.queues[0].name
        if options.single_host:
            take_over(RedisClient(connection).queue(queue))
        log.info("%s waits for %s; data %s, results %s", name, queue, config.data, config.trials or "not kept")
        worker.work(logging_level="WARNING")
    except redis.AuthenticationError as refusal:
        log.error(
            "Redis refuses this %s's password (%s). Next: write its password to %s, or start Redis with the one "
            "that is there; each new start tries again",
            role, refusal, options.password_file or "a --password-file",
        )  # fmt: skip
        return 1
    finally:
        sandbox_user.release()
    log.info("%s has stopped", name)
    return 0


def _gpu(profile: str | None) -> str | None:
    """Return the name of the worker's GPU for its lease, or None if its trials use none."""
    if profile is not None and PROFILES[profile].device == "cpu":
        return None
    return gpu_name() or (None if profile is None else UNNAMED_GPU)


def _require_sandbox(config: WorkerConfig, options: argparse.Namespace) -> None:
    sandbox = check_sandbox(config, options.password_file)
    log.info(
        "sandbox layers: %s; forbidden acts that succeeded: %s",
        ", ".join(sandbox.layers),
        ", ".join(sandbox.open) or "none",
    )
    if not options.unsafe_local:
        sandbox.require()


def _log_user(sandbox_user: SandboxUser) -> None:
    if sandbox_user.ended:
        log.warning("ended %d processes that a killed trainer had left", sandbox_user.ended)
    if sandbox_user.reason is not None:
        log.warning("candidates run as root without its rights, not as a user of their own: %s", sandbox_user.reason)


def _look_for_server(connection: redis.Redis) -> None:
    """Log a warning if Redis does not answer. The worker's own connection then waits up to ten minutes for Redis."""
    try:
        connection.ping()
    except redis.AuthenticationError:
        raise
    except (redis.ConnectionError, redis.TimeoutError) as away:
        log.warning("the server does not answer yet (%s); waiting", away)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.trials is None and not options.dry_runs:
        parser.error("the following arguments are required: --trials")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Runs the trials of the queue `trials`.")
    parser.add_argument("--dry-runs", action="store_true", help="work the queue `dry-runs` instead, without any GPU")
    parser.add_argument("--redis", required=True, metavar="URL", help="redis://host:port/0")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the server's password")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="data folder of `overnight prepare`")
    parser.add_argument("--trials", type=Path, metavar="DIR", help="results, kept; a dry-run worker has none")
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="work folders, wiped; not shared")
    parser.add_argument("--name", help="this worker's name; default: trainer-HOST-PID or dry-run-worker-HOST-PID")
    parser.add_argument("--heartbeat-file", type=Path, metavar="FILE", help="written at each beat, for a health check")
    parser.add_argument("--single-host", action="store_true", help="researcher and trainer share a clock: short lease")
    parser.add_argument("--profile", choices=sorted(PROFILES), help="shown in Redis: what this trainer's GPU fits")
    parser.add_argument("--vram-cap-mib", type=_vram_cap, metavar="N", help="no trial gets more of the GPU's memory")
    parser.add_argument(
        "--unsafe-local", action="store_true", help="work also where the sandbox around a candidate has a hole"
    )
    parser.add_argument(
        "--candidate-user",
        type=_user,
        metavar="UID[:GID]|auto",
        help="user for candidates alone, who owns --work; needs root. auto: for root, a free user that can read what "
        "candidates need. Default: the worker's own user",
    )
    return parser


def _user(text: str) -> User | Literal["auto"]:
    try:
        return AUTO if text == AUTO else User.parse(text)
    except UserRefused as refusal:
        raise argparse.ArgumentTypeError(str(refusal)) from None


def _vram_cap(text: str) -> int:
    if not text.isdecimal() or int(text) <= CONTEXT_MIB:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of MiB above the {CONTEXT_MIB} that CUDA itself takes"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
