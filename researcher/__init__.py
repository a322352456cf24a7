"""Thinks: proposals, validation, git, decisions, the journal, the loop. No torch."""
