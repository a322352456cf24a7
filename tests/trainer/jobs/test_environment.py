"""The environment of our children: what a user has set for other programs does not reach them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from trainer.jobs.environment import (
    INHERITED,
    PipSettingsUnreadable,
    Program,
    environment,
    pip_environment,
    python_command,
    replace_unprintable,
)

OTHERS = {
    "GIT_DIR": "/elsewhere/.git",
    "GIT_COMMITTER_DATE": "yesterday",
    "PYTHONPATH": "/elsewhere",
    "PYTHONHOME": "/elsewhere",
    "PYTHONSTARTUP": "/elsewhere/start.py",
    "PIP_USER": "1",
    "PIP_TARGET": "/elsewhere",
    "MPLBACKEND": "nonsense",
    "LC_ALL": "de_DE.ISO-8859-1",
    "MODEL": "of another program",
}
PROXY = {"HTTPS_PROXY": "http://proxy.example", "no_proxy": "inside.example", "SSL_CERT_FILE": "/etc/own.pem"}


@pytest.mark.parametrize("program", Program)
def test_no_program_gets_what_the_user_set_for_others(program: Program) -> None:
    built = environment(program, shell={"PATH": "/bin", **OTHERS})

    assert {name: built[name] for name in built.keys() & OTHERS.keys()} == (
        {"PYTHONPATH": str(ROOT)} if program is Program.PYTHON else {}
    )
    assert built["PATH"] == "/bin"


@pytest.mark.parametrize("program", Program)
def test_proxy_and_certificates_reach_the_programs_that_use_a_network(program: Program) -> None:
    uses_network = program in Program.PYTHON | Program.PIP | Program.DOCKER | Program.RCLONE

    built = environment(program, shell=PROXY)

    assert {name: value for name, value in built.items() if name in PROXY} == (PROXY if uses_network else {})


def test_what_is_added_outweighs_the_table() -> None:
    assert environment(Program.GIT, {"HOME": "/ours"}, shell={"HOME": "/theirs"}) == {"HOME": "/ours"}


def test_the_page_of_the_services_names_every_variable_and_its_reason() -> None:
    page = (ROOT / "services" / "README.md").read_text()

    names = {name for row in INHERITED for name in row.names.split()}
    assert [name for name in names if f"`{name}`" not in page] == []
    assert [row.reason for row in INHERITED if f"| {row.reason} |" not in page] == []


@pytest.mark.parametrize("place", ["the current folder", "PYTHONPATH"])
def test_a_module_of_the_user_is_not_taken_for_ours(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "researcher.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "logging.py").write_text("raise SystemExit('a stranger')")
    if place == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    ended = subprocess.run(
        python_command("researcher"),
        env=environment(Program.PYTHON), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ended.returncode == 2, ended.stderr
    assert "REDIS_URL" in ended.stdout


@pytest.mark.parametrize("package", ["researcher", "trainer"])
def test_the_commands_import_the_packages_beside_them(tmp_path: Path, package: str) -> None:
    """`overnight` itself is started by the user, with the user's PYTHONPATH."""
    (tmp_path / f"{package}.py").write_text("raise SystemExit('a stranger')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", "--version"],
        env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (ended.returncode, ended.stdout.split()[0]) == (0, "overnight"), ended.stderr


@pytest.mark.parametrize("image", ["researcher", "trainer"])
def test_in_an_image_python_imports_nothing_from_the_current_folder_and_reads_utf8(image: str) -> None:
    text = (ROOT / "services" / image / "Dockerfile").read_text()

    assert {"PYTHONSAFEPATH=1", "PYTHONUTF8=1", "PYTHONPATH=/opt/overnight"} <= set(text.split())


def test_pip_gets_the_users_index_from_file_and_environment_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "[global]\nindex-url = https://a.example/simple\nuser = true\n[install]\ntarget = /elsewhere\n"
    (tmp_path / "pip.conf").write_text(settings + "[download]\nproxy = http://proxy.example\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    monkeypatch.setenv("PIP_NO_DEPS", "1")

    built = pip_environment("download")

    assert (
        built
        | {
            "PIP_INDEX_URL": "https://a.example/simple",
            "PIP_PROXY": "http://proxy.example",
            "PIP_FIND_LINKS": "/wheels /more",
            "PIP_CONFIG_FILE": os.devnull,
        }
        == built
    )
    assert built.keys() & {"PIP_USER", "PIP_TARGET", "PIP_NO_DEPS"} == set()


def test_settings_that_pip_cannot_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.conf").write_text("no section\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))

    with pytest.raises(PipSettingsUnreadable, match=r"pip\.conf"):
        pip_environment("download")


def test_a_character_that_a_terminal_lacks_is_replaced() -> None:
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding="latin-1")

    replace_unprintable(terminal)
    print("é …", file=terminal, flush=True)

    assert written.getvalue() == b"\xe9 ?\n"
