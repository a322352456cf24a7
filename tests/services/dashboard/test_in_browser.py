"""The page in a real browser, beside a real Redis: a phone and a desktop, light and dark.

Needs Debian's package `chromium`, which no download of a browser replaces here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from researcher.journal.records import Decision
from services.dashboard.file_report import report_of
from services.machine.state import State
from services.redis.server import RedisServer
from tests.fixtures.journal_story import Story, begin_trial, copy_experiments
from tests.fixtures.page_process import PATIENCE_S, serve_page
from trainer.jobs import (
    Progress,
    RedisClient,
    Status,
)

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Playwright's own pipes
    # the journal of a story may be collected in a thread of Playwright
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
MANY = 5_000
PAGE_BYTES = 400_000
PATHS = ("", "experiments", "experiments/1", "compare?a=1&b=2", "learned", "health", "steer")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def site(story: Story, bus: RedisClient, server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """The address of the page's own process, which reads the story."""
    with serve_page(tmp_path, server) as page:
        yield page.address


@dataclass
class Visit:
    """One tab, with what went wrong in it."""

    tab: Any
    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def end(self, site: str) -> None:
        """Close the tab; nothing may have failed in it, and it may have asked no other host."""
        self.tab.context.close()
        assert self.faults == []
        assert [url for url in self.asked if not url.startswith((site, "data:", "about:"))] == []


def visit(browser: Any, address: str, size: dict[str, int], scheme: str = "light", **more: Any) -> Visit:
    tab = browser.new_context(viewport=size, color_scheme=scheme, **more).new_page()
    tab.set_default_timeout(PATIENCE_S * 1000)
    visit = Visit(tab)
    tab.on("console", lambda message: visit.faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: visit.faults.append(str(error)))
    tab.on("request", lambda request: visit.asked.append(request.url))
    tab.goto(address, wait_until="load")
    return visit


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_five_facts_without_scrolling(
    browser: Any, site: str, story: Story, bus: RedisClient, scheme: str
) -> None:
    trial = begin_trial(story)
    bus.publish_status("researcher", Status.working("measuring"))
    bus.publish_status("llm", Status.working("none, the settings ask for none"))
    bus.publish_progress(trial, Progress("timed", 0.4, 6.0, 120, 3.25))

    seen = visit(browser, site, PHONE, scheme, is_mobile=True, has_touch=True)

    bottom = seen.tab.locator("nav.places").bounding_box()["y"]
    for name in ("Result", "What runs now", "Progress", "Cost", "What is wrong"):
        box = seen.tab.get_by_role("region", name=name).bounding_box()
        assert box["y"] >= 0, name
        assert box["y"] + box["height"] <= bottom, name
    assert seen.tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    seen.tab.get_by_text("step 120").wait_for()
    seen.tab.get_by_text("5.0 %").first.wait_for()
    seen.end(site)


def test_the_first_screen_follows_the_run_without_a_reload(
    browser: Any, site: str, story: Story, bus: RedisClient
) -> None:
    trial = begin_trial(story)
    bus.publish_status("researcher", Status.working("measuring"))
    bus.publish_progress(trial, Progress("timed", 0.4, 6.0, 120, 3.25))
    seen = visit(browser, site, DESKTOP)
    seen.tab.get_by_text("step 120").wait_for()
    seen.tab.evaluate("window.isTheSameTab = true")

    bus.publish_progress(trial, Progress("timed", 0.6, 9.0, 180, 3.0))

    seen.tab.get_by_text("step 180").wait_for()
    seen.tab.locator("#live .losses path.own").wait_for(state="attached")
    assert seen.tab.evaluate("window.isTheSameTab")
    seen.end(site)


def test_a_new_decision_appears_in_the_chart(browser: Any, site: str, story: Story) -> None:
    seen = visit(browser, site, DESKTOP)
    seen.tab.locator("#legend li").first.wait_for()
    seen.tab.locator("#chart").focus()

    story.try_out("an even wider layer", 1.7, Decision.KEEP)

    seen.tab.wait_for_function(
        """() => { document.getElementById("chart").dispatchEvent(new KeyboardEvent("keydown", {key: "End"}));
                   return document.getElementById("tip").textContent.includes("an even wider layer"); }"""
    )
    seen.end(site)


def test_a_tap_on_a_point_says_what_it_is_and_leads_to_it(browser: Any, site: str) -> None:
    seen = visit(browser, site, PHONE, is_mobile=True, has_touch=True)
    seen.tab.locator("#legend li").first.wait_for()
    chart = seen.tab.locator("#chart")
    chart.scroll_into_view_if_needed()
    chart.focus()

    for _ in range(3):
        seen.tab.keyboard.press("ArrowLeft")
    tip = seen.tab.locator("#tip")
    assert "2 · a longer warm-up" in tip.inner_text()
    assert "kept, provisional" in tip.inner_text()
    seen.tab.keyboard.press("Escape")
    assert tip.is_hidden()
    box = chart.bounding_box()
    for share in range(5, 100):  # a finger goes over the chart until it meets a point
        seen.tab.touchscreen.tap(box["x"] + box["width"] * share / 100, box["y"] + box["height"] * 0.5)
        if tip.is_visible():
            break
    tip.get_by_role("link").click()
    seen.tab.get_by_role("heading", name="Trials").wait_for()
    seen.end(site)


def test_five_thousand_experiments_are_one_light_page(browser: Any, site: str, story: Story, tmp_path: Path) -> None:
    copy_experiments(story, MANY)
    sizes: list[int] = []
    seen = visit(browser, "about:blank", DESKTOP)
    seen.tab.on("requestfinished", lambda request: sizes.append(size_of(request)))
    seen.tab.goto(site, wait_until="load")
    seen.tab.locator("#legend li").first.wait_for()

    seen.tab.locator("#chart").focus()
    seen.tab.keyboard.press("End")
    assert f"{MANY} · " in seen.tab.locator("#tip").inner_text()
    for _ in range(8):
        seen.tab.get_by_role("button", name="Zoom in").click()
    seen.tab.keyboard.press("Escape")
    assert sum(sizes) < PAGE_BYTES
    seen.tab.goto(f"{site}experiments?q=copy&show=discard")
    assert seen.tab.locator("tbody tr").count() == 100
    seen.end(site)


def size_of(request: Any) -> int:
    sizes = request.sizes()
    return int(sizes["responseBodySize"] + sizes["responseHeadersSize"])


def test_steering_from_a_phone_asks_once_and_shows_the_answer(
    browser: Any, site: str, bus: RedisClient, tmp_path: Path
) -> None:
    bus.publish_status("researcher", Status.working("measuring"))
    seen = visit(browser, f"{site}steer", PHONE, is_mobile=True, has_touch=True)
    seen.tab.get_by_label("Token").fill((tmp_path / "page.token").read_text())
    seen.tab.get_by_role("button", name="Sign in").click()

    seen.tab.get_by_label("What should be tried?").fill("a wider layer")
    seen.tab.get_by_role("button", name="Send the idea").click()

    seen.tab.get_by_role("heading", name="What became of requests").wait_for()
    assert bus.queue("requests").count == 1
    seen.end(site)


@pytest.mark.parametrize("path", PATHS)
def test_no_page_is_wider_than_a_phone_and_all_work_with_the_keyboard(browser: Any, site: str, path: str) -> None:
    seen = visit(browser, f"{site}{path}", PHONE, "dark", is_mobile=True)

    assert seen.tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    seen.tab.keyboard.press("Tab")
    assert seen.tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    unnamed = """[...document.querySelectorAll("button, a, input:not([type=hidden]), textarea")].filter(each =>
        !(each.textContent.trim() || each.getAttribute("aria-label") || each.labels?.length)).length"""
    assert seen.tab.evaluate(unnamed) == 0
    seen.end(site)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_axe_finds_no_fault_of_accessibility_on_any_page(
    browser: Any, site: str, story: Story, size: dict[str, int], scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    begin_trial(story)
    seen = visit(browser, site, size, scheme)

    found = []
    for path in PATHS:
        seen.tab.goto(f"{site}{path}", wait_until="load")
        found += [(path, each["id"], each["nodes"][0]["target"]) for each in Axe().run(seen.tab).response["violations"]]
    assert found == []
    seen.end(site)


def test_a_report_opens_from_its_file_alone_and_has_no_fault_of_accessibility(
    browser: Any, story: Story, tmp_path: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "report.html"
    file.write_text(report_of(State(tmp_path)), encoding="utf-8")
    seen = visit(browser, file.as_uri(), PHONE, "dark", is_mobile=True)

    seen.tab.locator("#legend li").first.wait_for()
    assert seen.tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert Axe().run(seen.tab).response["violations"] == []
    seen.end(file.as_uri())
