"""The entry point of the image with everything in it: it keeps Ollama, the pull of the LLM's model, sshd and the run
alive until SIGTERM.

State and models are below /workspace, the folder that such a cloud keeps, so that a new container continues the run.
Settings come from the environment of the container. After the end of a run the container stays, for its results; with
--end-with-run it ends, for a scheduler that rents by the job.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from researcher.config.rules import asks_llm
from researcher.errors import OvernightError
from researcher.llm.backends import backend_named
from services.allinone.run import RUN_VARIABLES, run_settings
from services.machine.gpus import AUTO
from services.machine.supervisor import Child, ChildStatus, ProcessSupervisor
from trainer.jobs.environment import Program, environment, python_command
from trainer.stop import StopRequested, request_stop

logger = logging.getLogger("overnight")

WORKSPACE = Path("/workspace")
END_WITH_RUN = "--end-with-run"
REFUSED = 2
LOOK_S = 1.0
STOP_GRACE_S = 25.0  # more than `overnight run` itself gives its processes
OLLAMA_ADDRESS = "127.0.0.1:11434"
# As in compose.yaml, where each has its reason.
OLLAMA_SETTINGS = {
    "OLLAMA_HOST": OLLAMA_ADDRESS,
    "OLLAMA_NO_CLOUD": "1",
    "OLLAMA_NOPRUNE": "1",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "OLLAMA_NUM_PARALLEL": "1",
    "OLLAMA_FLASH_ATTENTION": "1",
    "OLLAMA_KV_CACHE_TYPE": "f16",
    "OLLAMA_VULKAN": "0",
    "LLAMA_ARG_CACHE_RAM": "2048",
}
SSH_KEYS = "PUBLIC_KEY"  # the variable in which RunPod passes the user's keys
SSHD_FOLDER = Path("/run/sshd")
AUTHORIZED_KEYS = SSHD_FOLDER / "authorized_keys"


def main() -> int:
    """Run until a signal; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    try:
        children = list(children_of(os.environ, WORKSPACE))
        with (
            closing(LogFollower(children[-1].log, sys.stdout.buffer)) as follower,
            ProcessSupervisor(children, grace_s=STOP_GRACE_S) as supervisor,
        ):
            _watch(supervisor, follower, end_with_run=sys.argv[1:] == [END_WITH_RUN])
        logger.info("the run has ended, and the container with it")
    except (OvernightError, ValueError) as error:
        logger.error("%s", error)
        return REFUSED
    except StopRequested:
        logger.info("stopped; a container on the same %s goes on from here", WORKSPACE)
    return 0


def children_of(shell: Mapping[str, str], workspace: Path) -> Iterator[Child]:
    """Yield the processes of the container, the run last. `shell` is the environment of the container."""
    logs = workspace / "logs"
    has_own_ollama = not shell.get("OLLAMA_HOST") and backend_named(shell.get("LLM")).needs_model_pull
    if has_own_ollama and asks_llm(shell):
        models = {"OLLAMA_MODELS": str(workspace / "models")}
        (workspace / "models").mkdir(parents=True, exist_ok=True)
        yield Child(
            "ollama",
            ("ollama", "serve"),
            logs / "ollama.log",
            env=environment(Program.PYTHON, OLLAMA_SETTINGS | models, shell=shell),
            final_codes=frozenset(),
        )
        profile = [] if shell.get("PROFILE", AUTO) == AUTO else ["--profile", shell["PROFILE"]]
        yield Child(
            "model",
            tuple(python_command("services.cli", "pull", *profile)),
            logs / "model.log",
            env=environment(Program.PYTHON, _settings(shell, workspace), shell=shell),
        )
    if shell.get(SSH_KEYS):
        yield _sshd(shell[SSH_KEYS], workspace, logs)
    yield Child(
        "run",
        tuple(python_command("services.allinone.run")),
        logs / "run.log",
        env=environment(Program.RCLONE, shell=shell)
        | environment(Program.PYTHON, _settings(shell, workspace), shell=shell),
    )


def _settings(shell: Mapping[str, str], workspace: Path) -> dict[str, str]:
    """Return the settings of a run, with the variables that its end action needs."""
    action = {name: shell[name] for name in RUN_VARIABLES if name in shell}
    usual = {"OVERNIGHT_STATE": str(workspace / "overnight"), "OLLAMA_HOST": OLLAMA_ADDRESS}
    return usual | run_settings(shell) | action


def _sshd(keys: str, workspace: Path, logs: Path) -> Child:
    """Return sshd for these public keys alone. The key of the host stays in the workspace."""
    host_key = workspace / "ssh" / "host_key"
    host_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    SSHD_FOLDER.mkdir(mode=0o755, exist_ok=True)
    AUTHORIZED_KEYS.write_text(f"{keys.strip()}\n", encoding="utf-8")
    if not host_key.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)],
            env=environment(Program.PYTHON),
            check=True,
        )
    options = {
        "HostKey": host_key,
        "AuthorizedKeysFile": AUTHORIZED_KEYS,
        "AuthenticationMethods": "publickey",
        "PidFile": "none",
        "AllowUsers": "root",
        "Subsystem": "sftp internal-sftp",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    argv = ("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *words)
    return Child("sshd", argv, logs / "sshd.log", final_codes=frozenset())


class LogFollower:
    """Copies what is appended to a log to a stream, from the log's present end on."""

    def __init__(self, log: Path, to: BinaryIO) -> None:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.touch()
        self._file = log.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._to = to

    def copy_new(self) -> None:
        """Copy what is new. A log that was shortened is copied from its beginning."""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        self._to.write(self._file.read())
        self._to.flush()

    def close(self) -> None:
        """Copy the last lines, and close the log."""
        self.copy_new()
        self._file.close()


def _watch(supervisor: ProcessSupervisor, follower: LogFollower, *, end_with_run: bool) -> None:
    has_ended = False
    while True:
        statuses = supervisor.poll()
        follower.copy_new()
        if end_with_run and _is_over(statuses[-1]):
            return
        if not has_ended and _is_over(statuses[-1]):
            has_ended = True
            logger.info(
                "the run has ended; the container stays for `overnight export`, `overnight status` and the like"
            )
        time.sleep(LOOK_S)


def _is_over(run: ChildStatus) -> bool:
    return run.pid is None and run.next_try_s is None


if __name__ == "__main__":
    raise SystemExit(main())
