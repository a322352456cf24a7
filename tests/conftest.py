"""What holds for every test: none fails for being slow; benchmarks show speed. A run that takes guards away begins with
which and why."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.mutations.choice import told
from tests.mutations.guards import GUARDS
from tests.mutations.history import of_this_checkout, of_this_run

pytest_plugins = ["tests.fixtures.scripted_run", "tests.fixtures.trials"]

# The readline that pytest imports writes the size of its terminal into the environment of every process that it starts.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)

settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return told(of_this_run(), len(GUARDS), of_this_checkout()) if config.option.markexpr == "slow" else []
