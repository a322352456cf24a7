"""The researcher's container: `start` prepares the run, starts the researcher, and keeps running after the researcher
has ended."""
