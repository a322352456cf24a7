"""The one-shot `data`: prepares the profile's text in the data volume; existing data are only checked.

All GPU profiles share their text, so `auto` needs no GPU here.
"""

from __future__ import annotations

import os
import sys

from rich.console import Console

from services.machine.data import prepare_data
from services.machine.gpus import AUTO
from services.trainer.start import STATE
from trainer.data import DataError
from trainer.jobs import ProfileError, profile_named

ANY_GPU = "80gb"


def main() -> int:
    """Prepare the text; return the exit code."""
    name = os.environ.get("PROFILE") or AUTO
    console = Console(stderr=False, soft_wrap=True, highlight=False)
    try:
        prepare_data(profile_named(ANY_GPU if name == AUTO else name), STATE / "data", None, console)
    except (DataError, ProfileError) as error:
        console.print(f"data: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
