"""Doctor: what this machine has and lacks for a night, in one line each. Checks and only checks; nothing is changed.

`examine` looks, `print_findings` tells, `exit_code` sums up, `write_report` makes a file for an issue, without secrets.
"""

from services.doctor.examination import examine
from services.doctor.facts import Facts, this_machine
from services.doctor.finding import Finding, Verdict, exit_code, print_findings
from services.doctor.minima import Mode
from services.doctor.report import write_report

__all__ = [
    "Facts",
    "Finding",
    "Mode",
    "Verdict",
    "examine",
    "exit_code",
    "print_findings",
    "this_machine",
    "write_report",
]
