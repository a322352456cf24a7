"""The researcher's container: `start` prepares the run and starts the researcher, also after it has ended; `health` is
the check of its health.
"""
