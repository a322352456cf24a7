"""The trainer's container: which profile its card has, then the worker."""
