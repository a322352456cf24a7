"""Requests from the page, on a real Redis and as the page's user: who may send one, and that it arrives once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from researcher.loop.request_handler import RequestHandler
from researcher.queues.requests import RequestWorker
from services.dashboard.access import COOKIE, FAILURES, Access
from services.redis.acl import DASHBOARD
from services.redis.server import RedisServer
from tests.fixtures.journal_story import Story
from tests.services.dashboard.conftest import ORIGIN, TOKEN
from trainer.jobs import RedisClient, Status, StatusKind, connect

FROM_HERE = {"Origin": ORIGIN}
ID = "0123456789ab"


@pytest.fixture
def bus(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisClient]:
    """Yield a client with all rights; the page is given its own user."""
    monkeypatch.setenv("REDIS_URL", server.url_for(DASHBOARD.name))
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(server.password_file(DASHBOARD.name)))
    found = RedisClient(connect(server.url, password=server.password))
    found.publish_status("researcher", Status.working("drafting"))
    yield found
    found.connection.flushall()
    found.connection.close()


def sign_in(page: TestClient, token: str = TOKEN) -> int:
    return page.post("/login", data={"token": token}, headers=FROM_HERE, follow_redirects=False).status_code


def ask(page: TestClient, headers: dict[str, str] = FROM_HERE, **form: str) -> int:
    answer = page.post("/requests", data={"id": ID} | form, headers=headers, follow_redirects=False)
    return answer.status_code


def serve(bus: RedisClient, story: Story) -> None:
    """Answer what waits, as the researcher does between two steps."""
    RequestWorker.open(bus, RequestHandler(story.journal, lambda _: None, clock=story.tick).receive).serve()


def test_a_request_reaches_the_researcher_once_and_its_answer_is_shown(
    story: Story, page: TestClient, bus: RedisClient
) -> None:
    assert sign_in(page) == 303

    assert [ask(page, kind="pause"), ask(page, kind="pause")] == [303, 303]
    serve(bus, story)

    (request,) = story.journal.requests()
    assert (request.id, request.kind) == (f"pause-{ID}", "pause")
    assert story.run.paused_by_user


def test_a_user_with_an_idea_sees_the_llms_status(story: Story, page: TestClient, bus: RedisClient) -> None:
    sign_in(page)

    assert "LLM:" not in page.get("/steer").text
    bus.publish_status("llm", Status.working("none: <no> answer; the optimiser goes on"))

    assert "LLM: none: &lt;no&gt; answer; the optimiser goes on." in page.get("/steer").text


def test_an_idea_and_a_file_arrive_as_they_were_written(story: Story, page: TestClient, bus: RedisClient) -> None:
    sign_in(page)

    ask(page, kind="idea", body="  try <b>wider</b> layers\r\nand fewer of them ")
    ask(page, kind="submit", id="a" * 12, name="mine", body="A = 7\r\n")
    ask(page, kind="submit", id="b" * 12, again="2")
    serve(bus, story)

    assert {request.body for request in story.journal.requests()} == {
        "try <b>wider</b> layers\nand fewer of them",
        "mine\nA = 7\n",
        f"experiment 2 again\n{story.journal.source(story.journal.numbered(2).id)}",
    }
    shown = page.get("/steer/requests").text
    assert "try &lt;b&gt;wider&lt;/b&gt; layers" in shown


def test_reading_needs_no_token_and_sending_does(story: Story, page: TestClient, bus: RedisClient) -> None:
    assert page.get("/steer").status_code == 200
    assert "Sign in" in page.get("/steer").text

    assert ask(page, kind="stop") == 401
    assert ask(page, {**FROM_HERE, "Cookie": f"{COOKIE}={'0' * 64}"}, kind="stop") == 401
    assert sign_in(page, "wrong") == 401
    assert bus.queue("requests").count == 0


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9999"}]
)
def test_a_form_of_another_page_is_refused_also_with_the_cookie(
    story: Story, page: TestClient, bus: RedisClient, headers: dict[str, str]
) -> None:
    sign_in(page)

    assert ask(page, headers, kind="stop") == 403
    assert bus.queue("requests").count == 0


def test_the_cookie_is_for_this_page_alone(story: Story, page: TestClient) -> None:
    answer = page.post("/login", data={"token": TOKEN}, headers=FROM_HERE, follow_redirects=False)

    parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict"} <= parts
    assert TOKEN not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"kind": "trial"}, 400),
        ({"kind": "pause", "id": "../../x"}, 400),
        ({"kind": "idea", "body": "  "}, 400),
        ({"kind": "submit", "again": "77"}, 404),
        ({"kind": "idea", "body": "x" * 300_001}, 413),
        ({"kind": "idea", "body": "x" * 1_300_000}, 413),
        ({f"field{n}": "" for n in range(20)}, 400),
    ],
)
def test_a_form_that_means_nothing_is_refused(
    story: Story, page: TestClient, bus: RedisClient, form: dict[str, str], status: int
) -> None:
    sign_in(page)

    assert ask(page, **form) == status
    assert bus.queue("requests").count == 0


def test_without_a_researcher_nothing_is_sent(story: Story, page: TestClient, bus: RedisClient) -> None:
    sign_in(page)
    bus.publish_status("researcher", Status(StatusKind.ENDED, "the goal is reached"))

    assert ask(page, kind="pause") == 409
    assert bus.queue("requests").count == 0


def test_after_ten_wrong_tokens_the_right_one_waits_a_minute(tmp_path: Path) -> None:
    now = 0.0
    access = Access(TOKEN, "", clock=lambda: now)

    assert [access.accepts("wrong") for _ in range(FAILURES)] == [False] * FAILURES
    assert not access.accepts(TOKEN)
    now = 61.0
    assert access.accepts(TOKEN)
