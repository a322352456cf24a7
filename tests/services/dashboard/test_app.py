"""The page over a real journal: what each address shows, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from researcher.journal.records import Decision
from researcher.prompting.transcripts import Exchange, store_exchanges
from researcher.report.view import headline
from services.dashboard.run_data import RunData
from services.machine.state import State
from tests.fixtures.journal_story import Story
from tests.services.dashboard.conftest import SOURCE
from trainer.jobs import Outcome, TrialLog, TrialResult

HOSTILE = "<script>alert(1)</script> $\\frac{1}{2}$ \u202egnp.exe {{ 7 * 7 }} \x1b[31m"


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_the_first_screen_holds_the_five_facts(story: Story, page: TestClient) -> None:
    live = page.get("/").text.partition('<div id="live"')[2].partition("Every experiment")[0]

    text = text_of(live)
    assert "Stopped" in text
    assert "5.0 % confirmed" in text
    assert headline(story.report()).startswith("5.0 % better than the start")
    assert "Best: 2 · a longer warm-up (provisional)" in text
    assert "Measured 4" in text
    assert "Cost" in text
    assert "No researcher is at work" in text or "the researcher is silent" in text


def test_before_the_first_run_every_page_says_so_and_none_fails(page: TestClient) -> None:
    for path in ("/", "/experiments", "/learned", "/health", "/steer", "/chart.json", "/status.json"):
        assert page.get(path).status_code == 200, path
    assert "Starting" in page.get("/").text


def test_the_status_of_the_page_is_that_of_the_command(story: Story, page: TestClient) -> None:
    status = page.get("/status.json").json()

    assert status["best"]["title"] == "a longer warm-up"
    assert status["headline"] == headline(story.report())
    assert len(status["rows"]) == 5


def test_the_page_of_an_experiment_shows_change_trials_and_decision(story: Story, page: TestClient) -> None:
    html = page.get("/experiments/2").text

    text = text_of(html)
    assert "a longer warm-up" in text
    assert "kept, provisional" in text
    assert "because" in text.lower()
    assert '<tr class="minus"><td class="at">1</td><td class="at"></td><td class="sign">-</td><td><code>A = 2' in html
    assert '<tr class="plus"><td class="at"></td><td class="at">1</td><td class="sign">+</td><td><code>A = 3' in html
    assert "1.880000" in text


def test_two_experiments_are_compared_in_the_order_asked_for(story: Story, page: TestClient) -> None:
    html = page.get("/compare?a=1&b=2").text

    assert "From 1 to 2" in html
    assert '<td class="sign">-</td><td><code>A = 2' in html
    assert '<td class="sign">+</td><td><code>A = 3' in html
    assert page.get("/compare?a=1&b=77").status_code == 404


def test_cost_and_health_count_trials_and_disk(story: Story, page: TestClient) -> None:
    text = text_of(page.get("/health").text)

    assert "Trials that gave a score 75.0 %" in text
    assert "GiB are free" in text


def test_the_downloaded_source_is_the_stored_one_to_the_byte(story: Story, page: TestClient) -> None:
    answer = page.get("/experiments/2/train.py")

    assert answer.content == story.journal.source(story.journal.numbered(2).id).encode()
    assert answer.headers["content-disposition"] == 'attachment; filename="train-2.py"'


@pytest.mark.parametrize("path", ["/experiments/99", "/experiments/99/train.py", "/nothing", "/static/../app.py"])
def test_what_is_not_there_is_not_found(story: Story, page: TestClient, path: str) -> None:
    assert page.get(path).status_code == 404


def test_text_of_models_and_candidates_is_text_everywhere(
    make_story: Callable[[], Story], page: TestClient, tmp_path: Path
) -> None:
    story = make_story()
    story.baseline(2.0, 2.0)
    story.try_out(HOSTILE, 1.9, Decision.KEEP, source=f"A = 2\n# {HOSTILE}\n")
    trial = story.journal.add_trial(
        story.run, 2, story.journal.trials(experiment=2)[0].kind, seed=1, at=story.tick(), score_to_beat=2.0
    )
    log = TrialLog("../journal/night.json", 1, 1, f"the end {HOSTILE}")
    result = TrialResult("i", "d", Outcome.CRASHED, HOSTILE, 0.0, 1.0, log=log)
    story.journal.finish_trial(trial, result, story.tick())
    store_exchanges(tmp_path / "journal" / "experiments" / "1", [Exchange(HOSTILE, HOSTILE, HOSTILE)])

    for path in ("/", "/experiments", "/experiments/1", "/learned"):
        html = page.get(path).text
        assert "<script>alert" not in html, path
        assert not set("\u202e\x1b") & set(html), path
        assert "7 * 7" in html or path == "/learned", path
    one = page.get("/experiments/1").text
    assert "⟨202E⟩gnp.exe" in one
    assert one.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
    assert "the end" in one, "a log outside of the trials' folder is not read"


def test_a_megabyte_of_changes_is_shown_in_part(make_story: Callable[[], Story], page: TestClient) -> None:
    story = make_story()
    story.baseline(2.0, 2.0)
    story.try_out("everything anew", 1.9, Decision.KEEP, source="".join(f"x{n} = {n}\n" for n in range(70_000)))
    story.try_out("one long line", 1.8, Decision.KEEP, source="x = '" + "y" * 1_000_000 + "'\n")

    for number in (1, 2):
        answer = page.get(f"/experiments/{number}")
        assert answer.status_code == 200
        assert len(answer.content) < 400_000
        assert "more lines are left out" in answer.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:8642"])
def test_a_name_that_leads_here_from_another_site_is_refused(story: Story, page: TestClient, host: str) -> None:
    assert page.get("/status.json", headers={"Host": host}).status_code == 400


def test_every_answer_forbids_scripts_and_frames_of_others(story: Story, page: TestClient) -> None:
    for path in ("/", "/experiments/1", "/chart.json", "/static/page.js", "/nothing"):
        policy = page.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    assert page.get("/").headers["referrer-policy"] == "same-origin", "else a browser's form says that it is from null"


def test_the_page_needs_nothing_from_another_host(story: Story, page: TestClient) -> None:
    for path in ("/", "/experiments", "/experiments/2", "/learned", "/static/page.css", "/static/page.js"):
        text = page.get(path).text
        assert re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?:https?:)?//', text) == [], path
        assert "style=" not in text, "the policy forbids styles in the page"


def test_the_chart_is_sent_again_only_after_a_change(story: Story, page: TestClient) -> None:
    first = page.get("/chart.json")

    again = page.get("/chart.json", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert [point[0] for point in first.json()["points"]] == [0, 1, 2, 3, 4]
    assert [first.json()["kinds"][kind] for kind in ("confirmed", "keep")] == ["kept, confirmed", "kept, provisional"]


def test_an_unreadable_journal_is_said_and_the_page_stays(story: Story, page: TestClient, tmp_path: Path) -> None:
    story.journal.close()
    (tmp_path / "journal" / "journal.db").write_bytes(b"no database" * 1000)

    assert "is damaged" in text_of(page.get("/").text)
    assert page.get("/status.json").status_code == 200


def test_what_was_learned_is_the_effect_of_each_knob_and_the_reason_of_each_failure(
    make_story: Callable[[], Story], page: TestClient
) -> None:
    story = make_story()
    story.baseline(2.0, 2.01, 1.99)
    for a in range(2, 24):
        better = 2.0 - 0.01 * a
        story.try_out(f"A to {a}", better, Decision.DISCARD, source=SOURCE.replace("A = 1 ", f"A = {a} "))
    story.try_out("an odd shape", None, Decision.CRASH, source=SOURCE.replace("B = 2", "B = 9"))

    text = text_of(page.get("/learned").text)

    assert (found := re.search(r"A up -0\.1\d+ ± 0\.\d+ better 22 0 ([\d.]+) %", text))
    assert float(found[1]) > 90
    assert re.search(r"B up — no score 0 1 [\d.]+ %", text)
    assert "crashed 1 23 · an odd shape because" in text
    assert "23 experiments were measured since" in text


def test_the_effects_of_another_run_hold_nothing_of_the_one_before(story: Story, tmp_path: Path) -> None:
    minutes = [0.0]
    data = RunData(State(tmp_path), clock=lambda: minutes[0])
    assert [(each.knob, each.direction) for each in data.knobs()] == [("A", "up")]

    story.journal.close()
    for path in (tmp_path / "journal").glob("journal.db*"):
        path.unlink()
    other = Story(tmp_path / "journal", source=SOURCE)
    other.journal._database.execute("UPDATE run SET created_at = 77")
    other.baseline(2.0, 2.01, 1.99)
    other.try_out("a smaller B", 1.9, Decision.KEEP, source=SOURCE.replace("B = 2", "B = 1"))
    minutes[0] = 60.0
    data._thread.submit(data._journal.close).result()  # as it does after a minute

    assert [(each.knob, each.direction) for each in data.knobs()] == [("B", "down")]
    data.close()
    other.journal.close()
