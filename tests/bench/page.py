"""The page with thousands of experiments and many live clients: is it fast and small, and does it slow a run?

First paint and transfer are those of Debian's chromium on the loopback interface, with an empty cache. An event's
latency runs from the moment at which a trainer publishes a step to the moment at which a client has read it. The run
beside the page is the researcher of the bench `scale`, in windows with and without the page and its clients in turn, so
that a change of the machine's speed meets both. Limits: first paint 1 s, 400 kB, 1.05 times the wall time without.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

import httpx
from rich.console import Console

from researcher.journal.records import Decision
from services.machine.state import CHOICES_FILE, RunConfig
from services.redis.server import RedisServer
from tests.bench.scale import WINDOW, Reading, each, run_once, set_up
from tests.fixtures.journal_story import Story, begin_trial, copy_experiments
from tests.fixtures.page_process import PATIENCE_S, PageProcess, serve_page
from tests.fixtures.servers import open_server
from trainer.jobs import Progress, RedisClient, Status, connect
from trainer.sandbox.procfs import process_table

PAINT_BAR_S, TRANSFER_BAR, SLOWER_BAR = 1.0, 400_000, 1.05
VISITS, EVENTS = 5, 20
_STEP = re.compile(r"step ([\d,]+)")
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"

Print = Callable[[str], None]


class LiveClient(threading.Thread):
    """A browser that stays on the first screen: it reads the events of the page until `close`.

    Each step that it reads goes to `seen` with the moment.
    """

    def __init__(self, address: str, seen: SimpleQueue[tuple[int, float]]) -> None:
        super().__init__(daemon=True)
        self._seen = seen
        self._client = httpx.Client(base_url=address, timeout=PATIENCE_S)
        self._over = threading.Event()

    def run(self) -> None:
        """Read until `close`."""
        try:
            with self._client, self._client.stream("GET", "/events") as answer:
                for line in answer.iter_lines():
                    if self._over.is_set():
                        return
                    if found := _STEP.search(line):
                        self._seen.put((int(found[1].replace(",", "")), time.monotonic()))
        except httpx.TransportError:
            if not self._over.is_set():  # else the page has ended
                raise

    def close(self) -> None:
        """End with the next line."""
        self._over.set()


@contextmanager
def live_clients(page: PageProcess, count: int) -> Iterator[SimpleQueue[tuple[int, float]]]:
    """Yield what `count` clients read."""
    seen: SimpleQueue[tuple[int, float]] = SimpleQueue()
    clients = [LiveClient(page.address, seen) for _ in range(count)]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        for client in clients:
            client.close()


def run(experiments: int, clients: int, rounds: int) -> None:
    """Measure the page, then the run beside it, and print the figures."""
    show = Console(width=120, highlight=False).print
    with tempfile.TemporaryDirectory(prefix="overnight-bench-") as name, open_server(Path(name, "redis")) as server:
        _measure_page(Path(name, "long"), server, experiments, clients, show)
        _measure_run(Path(name, "run"), server, clients, rounds, show)
    show(f"load {os.getloadavg()[0]:.1f}")


def _measure_page(folder: Path, server: RedisServer, experiments: int, clients: int, show: Print) -> None:
    story = _long_run(folder, experiments)
    trial = begin_trial(story)
    with connect(server.url, password=server.password) as connection, serve_page(folder, server) as page:
        bus = RedisClient(connection)
        bus.publish_status("researcher", Status.working("measuring"))
        bus.publish_progress(trial, Progress("timed", 0.0, 0.0, 1, 3.0))
        httpx.get(f"{page.address}alive", timeout=PATIENCE_S)
        alone_mib = process_table()[page.pid].rss_mib
        with live_clients(page, clients) as seen:
            late = [_latency(bus, trial, seen, 1000 + number, clients) for number in range(EVENTS)]
            paints, sizes = _visits(page.address)
            rss_mib = process_table()[page.pid].rss_mib
    story.journal.close()
    worst = [max(each) for each in late]
    show(f"{experiments} experiments, {clients} live clients")
    show(f"first paint: median {median(paints):.2f} s, worst {max(paints):.2f} s (bar {PAINT_BAR_S:.0f})")
    show(f"sent for the first screen: {max(sizes) / 1000:.0f} kB (bar {TRANSFER_BAR // 1000})")
    show(
        f"event latency: median {median(one for each in late for one in each):.2f} s; "
        f"of the slowest client median {median(worst):.2f} s, worst {max(worst):.2f} s"
    )
    show(f"memory of the page: {alone_mib:.0f} MiB at its start, {rss_mib:.0f} MiB then")


def _long_run(folder: Path, experiments: int) -> Story:
    """Return a journal with so many experiments; all but five are copies."""
    story = Story(folder / "journal")
    choices = RunConfig(profile="cpu", budget=None, subject="subject", text=None)
    (folder / "journal" / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
    story.baseline(2.0, 2.01, 1.99)
    story.try_out("a wider layer", 1.9, Decision.KEEP)
    story.claim([1.9, 1.9, 1.9], [2.0, 2.0, 2.0])
    story.try_out("a longer warm-up", 1.88, Decision.KEEP)
    story.try_out("no weight decay", 1.95, Decision.DISCARD)
    copy_experiments(story, experiments)
    return story


def _latency(
    bus: RedisClient, trial: str, seen: SimpleQueue[tuple[int, float]], step: int, clients: int
) -> list[float]:
    """Publish a step; return after how many seconds each client has read it."""
    began = time.monotonic()
    bus.publish_progress(trial, Progress("timed", 0.5, 7.5, step, 3.0))
    late: list[float] = []
    while len(late) < clients:
        read, at = seen.get(timeout=PATIENCE_S)
        late += [at - began] if read == step else []
    return late


def _visits(address: str) -> tuple[list[float], list[int]]:
    """Return the seconds to the first paint and the bytes of each of some visits, each with an empty cache."""
    from playwright.sync_api import sync_playwright

    paints, sizes = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(VISITS):
            tab = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
            tab.set_default_timeout(PATIENCE_S * 1000)
            requests: list[Any] = []
            tab.on("requestfinished", requests.append)
            tab.goto(address, wait_until="load")
            tab.locator("#legend li").first.wait_for()
            paints.append(tab.wait_for_function(_PAINTED).json_value() / 1000)
            each = (request.sizes() for request in requests)
            sizes.append(sum(size["responseBodySize"] + size["responseHeadersSize"] for size in each))
            tab.context.close()
        browser.close()
    return paints, sizes


def _measure_run(folder: Path, server: RedisServer, clients: int, rounds: int, show: Print) -> None:
    """Run windows of experiments with the page and without, in the order that is fair to both: with, without, without,
    with."""
    set_up(folder, server, push=False)
    choices = RunConfig(profile="cpu", budget=None, subject="subject", text=None)
    (folder / "journal").mkdir()
    (folder / "journal" / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
    done = 0
    spent: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for has_page in (True, False, False, True) * rounds:
        with ExitStack() as stack:
            if has_page:
                page = stack.enter_context(serve_page(folder, server))
                stack.enter_context(live_clients(page, clients))
            readings: list[Reading] = run_once(folder, server, done, done + WINDOW, WINDOW, False)
        spent[has_page].append(each(readings[0], readings[-1]))
        done += WINDOW
    (wall, processor), (alone_wall, alone_processor) = (
        tuple(median(one[place] for one in spent[has_page]) for place in (0, 1)) for has_page in (True, False)
    )
    ratio, processor_ratio = wall / alone_wall, processor / alone_processor
    show(f"the run beside it: {wall:.3f} s an experiment, {alone_wall:.3f} s without the page")
    show(f"ratio of wall time {ratio:.2f} (bar {SLOWER_BAR}), of processor time {processor_ratio:.2f}")
