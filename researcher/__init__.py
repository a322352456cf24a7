"""The researcher: proposals, validation, git, decisions, the journal, and the loop. It never imports torch."""
