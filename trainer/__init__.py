"""The trainer runs trials: RQ worker, sandbox, trusted scoring, data. It imports neither git nor an LLM client."""
