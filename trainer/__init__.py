"""Runs trials: the RQ worker, the guardian around a candidate, trusted scoring, data. No git, no LLM."""
