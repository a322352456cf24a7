"""Doctor: what this machine has and lacks for a run, one line for each check. Nothing is changed.

`checks` runs them all: `host`, `engine`, `gpu`, `subject` and `model_and_data` hold one group each. `finding` is the
result of a check, `requirements` the numbers that are asked for, `environment` what is known before, and `report`
writes a file for an issue, without secrets.
"""

from services.doctor.checks import examine
from services.doctor.environment import Environment, this_machine
from services.doctor.finding import Finding, Severity, exit_code, print_findings
from services.doctor.report import write_report
from services.doctor.requirements import Mode

__all__ = [
    "Environment",
    "Finding",
    "Mode",
    "Severity",
    "examine",
    "exit_code",
    "print_findings",
    "this_machine",
    "write_report",
]
