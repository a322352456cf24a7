"""`services/stack/pull.sh` with a double of the `ollama` command: its progress, a failing pull, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT
from tests.fixtures.trials import wait_for

TEN_S = 10
MODEL = "qwen3.5:9b"
# As the command prints them where no terminal is: whole screens, one after the other.
SCREENS = r"""
\033[?25lpulling manifest
\033[1Gpulling dec52a44569a:   3% ▕▏ 210 MB/6.6 GB\033[K
\033[1Gpulling dec52a44569a:  37% ▕█████▏ 2.4 GB/6.6 GB   21 MB/s   3m19s\033[K
\033[1Gpulling dec52a44569a:  37% ▕█████▏ 2.5 GB/6.6 GB   21 MB/s   3m18s\033[K
"""
OLLAMA = """\
#!/bin/sh
case "$1" in
serve) exec sleep infinity ;;
show) test -e "{folder}/there" ;;
pull)
    echo again >>"{folder}/pulls"
    printf '{screens}'
    until [ -e "{folder}/go" ]; do sleep 0.05; done
    if [ -e "{folder}/fails" ]; then echo 'Error: max retries exceeded: unexpected EOF' >&2; exit 1; fi
    touch "{folder}/there"
    ;;
esac
"""


@dataclass(frozen=True)
class Pull:
    """The script as a process, with the files that steer its `ollama`."""

    folder: Path
    process: subprocess.Popen[bytes]

    def says(self, words: str) -> bool:
        file = self.folder / "pull.txt"
        return file.exists() and words in file.read_text()

    @property
    def is_there(self) -> bool:
        return (self.folder / "scratch" / "pulled").exists()

    def pulls(self) -> int:
        return (self.folder / "pulls").read_text().count("again")


@contextmanager
def pulling(folder: Path) -> Iterator[Pull]:
    command = folder / "bin" / "ollama"
    for made in (command.parent, folder / "scratch"):
        made.mkdir()
    command.write_text(OLLAMA.format(folder=folder, screens=SCREENS.strip().replace("%", "%%").replace("\n", "\\n")))
    command.chmod(0o755)
    env = {
        "PATH": f"{command.parent}:/usr/bin:/bin",
        "MODEL": MODEL,
        "PULL_FILE": str(folder / "pull.txt"),
        "SCRATCH": str(folder / "scratch"),
        "PULL_AGAIN_S": "0",
    }
    script = ["/bin/sh", ROOT / "services" / "stack" / "pull.sh"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(script, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield Pull(folder, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_pull_says_each_percentage_once_and_nothing_once_the_model_is_there(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with pulling(tmp_path) as pull:
        wait_for(lambda: pull.is_there, TEN_S)
        wait_for(lambda: f"{MODEL} is there" in (tmp_path / "output").read_text(), TEN_S)

        assert (tmp_path / "output").read_text().splitlines() == [
            f"pulling {MODEL}",
            f"pulling {MODEL}, 3 %",
            f"pulling {MODEL}, 37 %",
            f"{MODEL} is there",
        ]
        assert not (tmp_path / "pull.txt").exists()
        assert pull.process.poll() is None, "it stays, so that the engine starts it again after a reboot"


def test_a_pull_that_fails_says_why_and_is_tried_again_until_it_succeeds(tmp_path: Path) -> None:
    for name in ("go", "fails"):
        (tmp_path / name).touch()
    with pulling(tmp_path) as pull:
        why = f"{MODEL} cannot be pulled (Error: max retries exceeded: unexpected EOF). Tried again in 0 s"
        wait_for(lambda: why in (tmp_path / "output").read_text(), TEN_S)
        assert not pull.is_there
        (tmp_path / "fails").unlink()

        wait_for(lambda: pull.is_there, TEN_S)

        assert pull.pulls() >= 2


def test_a_model_that_is_there_is_not_pulled(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pulling(tmp_path) as pull:
        wait_for(lambda: pull.is_there, TEN_S)

        assert not (tmp_path / "pulls").exists()


def test_a_stop_ends_the_script_at_once_also_while_it_pulls(tmp_path: Path) -> None:
    with pulling(tmp_path) as pull:
        wait_for(lambda: pull.says(f"pulling {MODEL}"), TEN_S)

        pull.process.send_signal(signal.SIGTERM)

        assert pull.process.wait(TEN_S) == 0
        assert not (tmp_path / "pull.txt").exists()
