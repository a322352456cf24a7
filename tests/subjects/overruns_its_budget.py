"""Never asks for its progress and never stops."""

from prepare import make_dataloader

for _ in make_dataloader(None, 8, 32, "train"):
    pass
