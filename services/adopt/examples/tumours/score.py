"""Scores the probabilities in the output folder, which is the last argument. This file is pinned.

What a candidate left is loaded without pickles, which could run its code here.
"""

import pathlib
import sys

import numpy as np
from sklearn.metrics import roc_auc_score

labels = np.load("hidden/labels.npy")
probabilities = np.load(pathlib.Path(sys.argv[-1]) / "probabilities.npy", allow_pickle=False)
if probabilities.shape != labels.shape or not np.isfinite(probabilities).all():
    sys.exit("probabilities.npy holds one finite number for each scored row")
print(f"auc: {roc_auc_score(labels, probabilities):.6f}")
