"""The action at the end of a run: what is refused before the run starts, and what is run after it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command

from services import __main__, run_commands
from services.stack.end_action import ACTIONS, EndActionRefused, checked, run_after
from tests import ROOT

RUNPOD = {"RUNPOD_POD_ID": "abc123"}
VAST = {"CONTAINER_ID": "4711", "CONTAINER_API_KEY": "secret"}


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with the providers' programs, which note how they were called."""
    for name in ("runpodctl", "vastai", "systemctl", "sudo", "poweroff"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/called\n')
        program.chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("name", "variables", "called"),
    [
        ("poweroff", {}, "systemctl poweroff"),
        ("runpod-stop", RUNPOD, "runpodctl stop pod abc123"),
        ("runpod-remove", RUNPOD, "runpodctl remove pod abc123"),
        ("vast-stop", VAST, "vastai stop instance 4711 --api-key secret"),
    ],
)
def test_a_named_action_calls_the_providers_program_for_this_machine(
    name: str,
    variables: dict[str, str],
    called: str,
    machine: dict[str, str],
    tmp_path: Path,
) -> None:
    environment = machine | variables
    console = Console(width=200, file=io.StringIO(), record=True)

    code = run_after(checked(name, environment, systemd=tmp_path), console, environment)

    assert code == 0
    assert (tmp_path / "called").read_text() == f"{called}\n"
    assert "secret" not in console.export_text(), "the key is named, not shown"


def test_every_named_action_is_tried_above() -> None:
    assert set(ACTIONS) == {"poweroff", "runpod-stop", "runpod-remove", "vast-stop"}


@pytest.mark.parametrize("text", ["poweroff", "sudo poweroff", "shutdown -h now", "systemctl poweroff", "/sbin/halt"])
@pytest.mark.parametrize(
    ("variables", "instead"), [(RUNPOD, "runpod-stop, runpod-remove"), (VAST, "vast-stop"), ({}, ", ".join(ACTIONS))]
)
def test_a_power_off_in_a_container_is_refused_with_what_ends_the_cost_there(
    text: str, variables: dict[str, str], instead: str, machine: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(EndActionRefused) as refused:
        checked(text, machine | variables, systemd=tmp_path / "none")

    assert refused.value.next_step.startswith(f"one of {instead}, or")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("runpod-stop", "needs RUNPOD_POD_ID"),
        ("vast-stop", "needs CONTAINER_ID and CONTAINER_API_KEY"),
        ("terminate-me --now", "no program terminate-me"),
        ("MODE=fast terminate-me", "no program terminate-me"),
        ("echo 'unfinished", "no command that a shell can read"),
        ("if true", "no command that a shell can read"),
        ("  ", "no command that a shell can read"),
    ],
)
def test_an_action_that_cannot_work_is_refused_before_anything_starts(
    text: str, found: str, machine: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(EndActionRefused, match=re.escape(found)):
        checked(text, machine, systemd=tmp_path)


def test_an_action_that_would_ask_for_a_password_is_refused(machine: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "sudo").write_text("#!/bin/sh\necho a password is required >&2\nexit 1\n")

    with pytest.raises(EndActionRefused, match="would ask for a password"):
        checked("sudo poweroff", machine, systemd=tmp_path)


@pytest.mark.parametrize("text", ["sudo poweroff", "cd /tmp && echo done", "[ -e /tmp ]", "A=1 echo done; exit 3"])
def test_a_command_of_the_users_own_is_left_as_it_is(text: str, machine: dict[str, str], tmp_path: Path) -> None:
    assert checked(text, machine, systemd=tmp_path) == text


def test_both_ways_to_run_take_the_action_and_the_pages_name_every_one() -> None:
    for app, command in ((run_commands.app, "run"), (__main__.app, "up")):
        options = {option for parameter in get_command(app).commands[command].params for option in parameter.opts}
        assert "--then" in options
    for page in ("scripts/up", "services/README.md"):
        assert [name for name in ACTIONS if name not in (ROOT / page).read_text()] == []
