"""What `--help` and the pages say of settings, against the table."""

from __future__ import annotations

import re

import pytest
import typer
from typer.core import TyperCommand

from researcher.config.setting import Source
from researcher.config.settings import TABLE
from services import __main__ as stack
from services import cli, run_commands
from services.stack.end_action import ACTIONS
from tests import ROOT
from trainer.jobs.environment import INHERITED

PAGES = "".join(page.read_text() for page in sorted({*ROOT.glob("README.md"), *ROOT.glob("*/README.md")}))
KEY = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
# Constants of train.py and of somebody else's prepare.py, and a constant of our code.
OF_A_SUBJECT = {"TIME_BUDGET", "ALL_CAPS", "WEIGHT_DECAY", "FINAL_LR_FRAC", "LATER_NAMES"}
OF_THE_SCRIPTS = {"COMPOSE_PROJECT_NAME", "OVERNIGHT_VENV", "OVERNIGHT_PYTHON", "OVERNIGHT_TORCH_BUILD", "PUBLIC_KEY"}
# Options of `run` that are no setting of this name: what is detected or made of them is.
OF_THE_VERB = {"state", "profile", "subject", "text", "redis_url", "unsafe_local", "then"}
OF_THE_VERB |= {"new", "from_best", "wipe", "yes", "skip_gpu_check", "page"}
VERBS = [verb for app in (cli.app, run_commands.app, stack.app) for verb in typer.main.get_group(app).commands.values()]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_of_a_verb_names_no_key_that_is_not_in_the_table(verb: TyperCommand) -> None:
    named = set(KEY.findall(" ".join([verb.help, *(option.help or "" for option in verb.params)])))

    assert named - OF_A_SUBJECT <= set(TABLE)
    assert {option.envvar for option in verb.params if option.envvar} <= set(TABLE)


def test_options_that_set_a_key_say_of_it_what_the_table_says() -> None:
    run, up = (next(verb for verb in VERBS if verb.name == name) for name in ("run", "up"))
    of_run = [option for option in run.params if option.name not in OF_THE_VERB]
    of_up = [option for option in up.params if str(option.name).upper() in TABLE]

    assert {option.name for option in of_up} == {"experiments", "hours", "until", "max_cost"}
    for option in (*of_run, *of_up):
        assert option.help == TABLE[str(option.name).upper()].summary


def test_pages_name_no_key_that_is_not_in_the_table() -> None:
    of_other_programs = {key for row in INHERITED for key in KEY.findall(row.names)} | {
        "GIT_DIR",
        "PIP_EXTRA_INDEX_URL",
    }
    of_other_programs |= {name for action in ACTIONS.values() for name in action.variables}

    assert set(KEY.findall(PAGES)) - OF_A_SUBJECT - OF_THE_SCRIPTS - of_other_programs <= set(TABLE)


def test_every_key_that_gpu_env_does_not_show_is_on_a_page() -> None:
    elsewhere = {key for key, row in TABLE.items() if row.source is Source.ENVIRONMENT}

    assert {key for key in elsewhere if f"`{key}`" not in PAGES} == set()
