"""Scores the labels in the output folder, which is the last argument. This file is pinned.

What a candidate left is loaded without pickles, which could run its code here.
"""

import pathlib
import sys

import numpy as np

labels = np.load("hidden/labels.npy")
answers = np.load(pathlib.Path(sys.argv[-1]) / "labels.npy", allow_pickle=False)
if answers.shape != labels.shape:
    sys.exit("labels.npy holds one label for each scored image")
print(f"accuracy: {(answers == labels).mean():.6f}")
