"""The report of a run as one HTML file."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from researcher.journal.records import Decision
from services.dashboard.file_report import report_of
from services.machine.state import State
from services.views.show import NothingToShow
from tests.fixtures.journal_story import Story
from tests.services.dashboard.conftest import SOURCE

HOSTILE = "</script><script>alert(1)</script> {{ 7 * 7 }}"


def text_of(html: str) -> str:
    shown = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def test_confirmed_gains_stand_apart_from_provisional_ones_with_their_changes(story: Story, tmp_path: Path) -> None:
    text = text_of(report_of(State(tmp_path)))

    confirmed, _, rest = text.partition("Confirmed gains")[2].partition("Provisional gains")
    provisional = rest.partition("What moving a knob did")[0]
    assert "1 · a wider layer: -0.100000" in confirmed
    assert "A = 2 # range" in confirmed
    assert "2 · a longer warm-up" in provisional
    assert "2 · a longer warm-up" not in confirmed
    assert "crashed 1 4 · an odd shape" in text
    assert "Cost of a confirmed gain" in text


def test_the_report_needs_nothing_else_and_its_policy_allows_its_own_script_alone(
    make_story: Callable[[], Story], tmp_path: Path
) -> None:
    story = make_story()
    story.baseline(2.0, 2.01, 1.99)
    story.try_out(HOSTILE, 1.9, Decision.KEEP, source=SOURCE.replace("A = 1", f"A = 2  # {HOSTILE}"))

    html = report_of(State(tmp_path))

    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:|//|/)""", html) == []
    assert "style=" not in html
    data, script = re.findall(r"<script\b[^>]*>(.*?)</script>", html, flags=re.DOTALL)
    assert [point[4] for point in json.loads(data)["points"]] == ["baseline", HOSTILE]
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in unescape(html)
    assert "{{ 7 * 7 }}" in text_of(html)


def test_without_a_run_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(NothingToShow):
        report_of(State(tmp_path))
