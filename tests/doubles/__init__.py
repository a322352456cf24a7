"""Servers and services that behave as the real ones were recorded, faults included."""
