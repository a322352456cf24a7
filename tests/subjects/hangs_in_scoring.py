"""Its model never answers."""

import time

from prepare import evaluate_bpb, make_dataloader

next(make_dataloader(None, 8, 32, "train"))
evaluate_bpb(lambda x: time.sleep(1000), None, 8)
