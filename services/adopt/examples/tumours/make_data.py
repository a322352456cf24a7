"""Draws the rows of the task into data/ and hidden/: run this once before a run. This file is pinned.

Both classes are drawn from normal distributions that have the means and covariances of the breast cancer data that
scikit-learn ships. The draw has no seed, so the labels that score exist in hidden/ only: a candidate that reads the
package's own data learns the distributions, and no label.
"""

import pathlib

import numpy as np
from sklearn.datasets import load_breast_cancer

FEATURES = ["mean texture", "mean smoothness", "mean symmetry", "mean fractal dimension", "texture error"]
LABELLED, SCORED = 400, 4000  # rows

random = np.random.default_rng()
shipped = load_breast_cancer()
columns = shipped.data[:, [list(shipped.feature_names).index(name) for name in FEATURES]]
columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
classes = [columns[shipped.target == label] for label in (0, 1)]

labels = random.integers(2, size=LABELLED + SCORED)
rows = np.empty((len(labels), len(FEATURES)))
for label, of_class in enumerate(classes):
    drawn = random.multivariate_normal(of_class.mean(axis=0), np.cov(of_class.T), size=len(labels))
    rows[labels == label] = drawn[labels == label]

for folder in ("data", "hidden"):
    pathlib.Path(folder).mkdir(exist_ok=True)
np.save("data/rows.npy", rows[:LABELLED])
np.save("data/labels.npy", labels[:LABELLED])
np.save("data/scored_rows.npy", rows[LABELLED:])
np.save("hidden/labels.npy", labels[LABELLED:])
