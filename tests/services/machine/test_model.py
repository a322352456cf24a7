"""`overnight pull`: a bar for each layer, on with it after a break, and each failure in words with the next step."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from researcher.errors import BadValue, LlmUnavailable
from researcher.llm.ollama_api import OllamaSettings
from services import cli
from services.machine.model import (
    DiskFull,
    PullFailed,
    RegistryAway,
    UnknownModel,
    model_wanted,
    pull_model,
    warn_if_missing,
)
from tests.doubles.ollama_pulls import ForgetfulLibrary, Library, LibraryWithoutEnd, Stranger
from tests.doubles.ollama_server import OllamaDouble, ollama_double
from tests.scenarios.test_bad_input import overnight

MODEL = "small:9b"


def pulled(server: OllamaDouble) -> str:
    console = Console(file=io.StringIO(), width=120, record=True)
    pull_model(OllamaSettings(server.url, MODEL), console)
    return console.export_text()


def test_a_pull_shows_its_layers_and_ends_once_the_model_is_listed() -> None:
    with ollama_double([""], kind=Library) as server:
        said = pulled(server)

        assert server.installed() == [MODEL]
        assert [said.count(words) for words in ("pulling manifest", "verifying sha256", "success")] == [1, 1, 1]
        assert "pulling abababababab" in said
        assert "6.4/6.4 GB" in said
        assert f"{server.url} has {MODEL}" in said


def test_a_model_that_is_there_is_not_pulled_again() -> None:
    with ollama_double([""], model=MODEL) as server:
        assert pulled(server) == f"{server.url} has {MODEL}\n"


def test_a_pull_that_is_cut_says_how_to_go_on_and_goes_on_where_it_was() -> None:
    with ollama_double([""], kind=Library) as server:
        assert isinstance(server, Library)
        server.left = 4 * 2**30
        with pytest.raises(PullFailed, match=r"broke off .*; `overnight pull small:9b` goes on where it was"):
            pulled(server)
        got = dict(server.parts)
        server.left = 3 * 2**30

        pulled(server)

        assert max(got.values()) == 4 * 2**30
        assert server.installed() == [MODEL]


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ("pull model manifest: file does not exist", UnknownModel, "library has no model small:9b"),
        ("write /models/blobs/sha256-ab-partial: no space left on device", DiskFull, "no room for small:9b"),
        ("max retries exceeded: write /models/x: no space left on device", DiskFull, "goes on where it was"),
        ("Get: dial tcp: lookup REGISTRY-HOST: no such host", RegistryAway, "does not reach its registry"),
        ("max retries exceeded: unexpected EOF", RegistryAway, "goes on where it was"),
        ("pull model manifest: 412: this model requires a newer version of Ollama", PullFailed, "a newer version"),
    ],
)
def test_what_ollama_says_is_wrong_has_its_kind(error: str, kind: type[PullFailed], says: str) -> None:
    with ollama_double([""], kind=Library) as server:
        assert isinstance(server, Library)
        server.error = error
        with pytest.raises(PullFailed) as failed:
            pulled(server)

    assert type(failed.value) is kind
    assert says in str(failed.value)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (ForgetfulLibrary, "says that it pulled small:9b, and does not list it"),
        (LibraryWithoutEnd, "ended after 'writing manifest' without a success"),
        (Stranger, "which is no step of a pull"),
    ],
)
def test_a_pull_that_only_looks_done_is_not_taken_for_it(kind: type[Library], says: str) -> None:
    with ollama_double([""], kind=kind) as server, pytest.raises(PullFailed, match=says):
        pulled(server)


def test_where_no_ollama_answers_nothing_is_pulled() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(LlmUnavailable, match="Ollama may not be running there"):
            pull_model(OllamaSettings(url, MODEL), Console(file=io.StringIO()))


def test_the_model_is_the_one_named_else_the_environments_else_the_profiles() -> None:
    here = {"MODEL": "mine:1b", "OLLAMA_HOST": "gpu"}

    wanted = [model_wanted(here, "cpu", MODEL), model_wanted(here, "cpu"), model_wanted({}, "24gb")]

    assert [(each.model, each.url) for each in wanted] == [
        (MODEL, "http://gpu:11434"),
        ("mine:1b", "http://gpu:11434"),
        ("qwen3.5:9b", "http://127.0.0.1:11434"),
    ]


@pytest.mark.parametrize(
    ("environment", "is_said"),
    [
        ({}, True),
        ({"LLM": "none"}, False),
        ({"PROPOSER": "optimizer"}, False),
        ({"PROPOSER": "random"}, False),
        ({"MODEL": "small"}, False),
    ],
)
def test_a_run_says_first_how_to_get_a_missing_model(environment: dict[str, str], is_said: bool) -> None:
    console = Console(file=io.StringIO(), width=200, record=True)
    with ollama_double([""], model="small:latest") as server:
        warn_if_missing({"MODEL": "large:70b", "OLLAMA_HOST": server.url} | environment, "cpu", console)

    said = console.export_text()
    assert ("run: overnight pull large:70b" in said) == is_said
    assert is_said or said == ""


def test_a_run_does_not_begin_with_a_backend_that_nobody_knows() -> None:
    with pytest.raises(BadValue):
        warn_if_missing({"LLM": "gpt"}, "cpu", Console(file=io.StringIO()))


@pytest.mark.slow
def test_a_run_begins_with_that(tmp_path: Path) -> None:
    elsewhere = ["--profile", "cpu", "--subject", str(tmp_path / "nowhere")]
    with ollama_double([""]) as server:
        done = overnight(
            "run", "--ollama-host", server.url, "--model", "large:70b", *elsewhere, state=tmp_path / "state"
        )

    assert "does not have the model large:70b; run: overnight pull large:70b" in done.stdout
    assert "nowhere" in done.stderr


def test_the_command_pulls_what_it_is_told_to_and_refuses_an_address_that_is_none() -> None:
    runner = CliRunner()
    with ollama_double([""], kind=Library) as server:
        done = runner.invoke(cli.app, ["pull", MODEL, "--ollama-host", server.url])
        assert (done.exit_code, server.installed()) == (0, [MODEL])

    refused = runner.invoke(cli.app, ["pull", "--ollama-host", "a b:1"])
    assert refused.exit_code == cli.BAD_USE
    assert "OLLAMA_HOST is 'a b:1'" in refused.output
