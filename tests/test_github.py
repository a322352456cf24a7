"""The files of .github: CI runs what everyone can run, and the issue forms ask for the doctor's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT
from tests.test_other_pythons import FLOOR, VERSIONS

FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def test_ci_runs_one_script_and_has_every_python_of_the_slow_tests() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    (job,) = workflow["jobs"].values()
    pythons = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]

    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert pythons[0].split() == [*reversed(VERSIONS), FLOOR]


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_form_has_what_a_forge_needs_and_asks_for_the_report(form: Path) -> None:
    asked = read(form)

    assert asked.keys() == {"name", "description", "labels", "body"}
    assert {part["type"] for part in asked["body"]} <= {"textarea", "dropdown"}
    assert len({part["id"] for part in asked["body"]}) == len(asked["body"])
    (report,) = [part for part in asked["body"] if part["id"] == "report"]
    assert "`overnight doctor --report report.txt`" in report["attributes"]["description"]
    assert "`scripts/doctor --report report.txt`" in report["attributes"]["description"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
