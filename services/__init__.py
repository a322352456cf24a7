"""Operates: the `overnight` command, local mode, and one folder per container."""
