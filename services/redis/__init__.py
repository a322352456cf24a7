"""The Redis-protocol server: local mode's own, and the users that it has in both modes."""
