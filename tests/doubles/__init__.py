"""Servers and services that behave like the recorded real ones, faults included."""
