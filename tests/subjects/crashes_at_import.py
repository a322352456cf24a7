"""Fails before anything else."""

raise RuntimeError("there is no such layer")
