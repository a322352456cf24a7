"""A server behind https whose certificate comes from an authority of one's own, over real TLS."""

from __future__ import annotations

import io
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from researcher.errors import LlmUnavailable
from researcher.llm.client import Message
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.llm.openai import OpenAiClient, OpenAiSettings
from researcher.llm.stream import authorities
from services.machine.model import pull_model
from tests.doubles.ollama_pulls import Library
from tests.doubles.ollama_server import listening, ollama_double
from tests.doubles.openai_server import OpenAiDouble, openai_double, spoken

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The certificate, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("authority")
    made = folder / "certificate.pem", folder / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    request += ["-addext", "subjectAltName=DNS:localhost", "-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run(request, check=True, capture_output=True)
    return made


@pytest.fixture
def url(certificate: tuple[Path, Path]) -> Iterator[str]:
    """An Ollama behind https, which pulls a model before it has it."""

    class BehindTls(Library):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    with ollama_double(["yes"], kind=BehindTls) as server:
        yield f"https://localhost:{server.server_address[1]}"


@pytest.fixture(autouse=True)
def unread_authorities() -> Iterator[None]:
    authorities.cache_clear()
    yield
    authorities.cache_clear()


QUESTION = [Message("user", "Name one primary colour.")]


def test_authority_that_the_user_names_is_trusted_by_every_client(
    certificate: tuple[Path, Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    wanted = OllamaSettings(url, "small", num_ctx=512)

    pull_model(wanted, Console(file=io.StringIO()))
    OpenAiClient(OpenAiSettings(f"{url}/v1", "small")).check_available()

    assert OllamaClient(wanted).chat(QUESTION, lambda: None).text == "yes"


def test_a_paid_endpoint_is_not_asked_how_much_it_has_read(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    server = OpenAiDouble([spoken("yes")])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)

    with listening(server):
        url = f"https://localhost:{server.server_address[1]}/v1"
        answer = OpenAiClient(OpenAiSettings(url, "small")).chat(QUESTION, lambda: None)

    assert answer.text == "yes"
    assert "return_progress" not in server.questions[0]


def test_authority_that_nobody_named_is_not_trusted_and_it_is_said_how_it_would_be(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    for client in (OllamaClient(OllamaSettings(url, "small")), OpenAiClient(OpenAiSettings(f"{url}/v1", "small"))):
        with pytest.raises(LlmUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"):
            client.check_available()
        with pytest.raises(LlmUnavailable, match="SSL_CERT_FILE"):
            client.chat(QUESTION, lambda: None)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authority_that_cannot_be_read_is_named_and_no_fault_of_the_program(
    content: str | None, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    for client in (OllamaClient(OllamaSettings(url, "small")), OpenAiClient(OpenAiSettings(f"{url}/v1", "small"))):
        with pytest.raises(LlmUnavailable, match="SSL_CERT_FILE names cannot be used"):
            client.check_available()
        with pytest.raises(LlmUnavailable, match="SSL_CERT_FILE names cannot be used"):
            client.chat(QUESTION, lambda: None)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authority_that_cannot_be_read_matters_to_no_server_behind_plain_http(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    with ollama_double(["yes"], kind=Library) as server:
        wanted = OllamaSettings(server.url, "small", num_ctx=512)
        pull_model(wanted, Console(file=io.StringIO()))
        assert OllamaClient(wanted).chat(QUESTION, lambda: None).text == "yes"
    with openai_double(spoken("yes")) as endpoint:
        client = OpenAiClient(OpenAiSettings(endpoint.url, "small"))
        client.check_available()
        assert client.chat(QUESTION, lambda: None).text == "yes"
