"""The Redis-protocol server: local mode's own, and the users of the stack's."""
