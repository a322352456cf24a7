"""The program of the installed `overnight` command, which the wheel holds as a module `overnight_command` of its own.

A folder of PYTHONPATH comes before the installed packages, so a module `services` in it would hide ours. This module
has a name that is nobody else's, and puts the folder with our packages first.
"""

import os
import sys
from importlib import import_module

_OURS = os.path.join("services", "machine", "installation.py")


def main() -> None:
    """Run the command line of our own packages."""
    root = next(folder for folder in sys.path if os.path.isfile(os.path.join(folder, _OURS)))
    sys.path.insert(0, root)
    import_module("services.cli").main()
