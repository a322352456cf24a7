"""The doctor: tests each requirement of a run on this machine and prints one line for it. It changes nothing.

`checks` runs the checks in order; `host`, `engine`, `gpu`, `subject` and `model_and_data` hold one group each.
`finding` is the result of a check, `environment` the inputs of the checks, and `report` writes a file for a bug report,
without secrets.

`gpu_check` measures on a GPU what a run needs, from values that a machine gives: `gpu_machine` is this one, and
`gpu_measurements` runs on the GPU in processes of its own. `gpu_report` judges the values, and `gpu_check_command`
prints and writes the report.
"""

from services.doctor.checks import examine
from services.doctor.environment import Environment, Mode, this_machine
from services.doctor.finding import Finding, Severity, exit_code, print_findings
from services.doctor.report import write_report

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
