"""Starts, stops and shows runs: the `overnight` command, local mode, and one folder for each container."""
