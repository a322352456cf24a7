"""The researcher's container: what the night is, then the researcher, also after it has ended."""
