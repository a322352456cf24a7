"""Asks the loader for the validation rows."""

from prepare import make_dataloader

next(make_dataloader(None, 8, 32, "val"))
