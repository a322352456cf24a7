"""The Redis-protocol server of local mode."""
