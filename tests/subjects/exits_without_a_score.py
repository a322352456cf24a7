"""Trains a little and leaves with exit code 0, claiming a score that nobody measured."""

import os
from pathlib import Path

from prepare import make_dataloader

folder = Path(os.environ["HOME"], "locked")
(folder / "inner").mkdir(parents=True)
folder.chmod(0o000)  # wiping the work folder must not need the candidate's leave

next(make_dataloader(None, 8, 32, "train"))
print("val_bpb:          0.100000")
