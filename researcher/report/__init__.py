"""The read model: what users see of a run, built from the journal.

`view` builds it, `results_table` and `picture` write results.tsv and progress.png, `proposer_stats` counts how well
each proposer does, and `stall_alarm` notices that a run does not move. Nothing that proposes or decides imports this
folder.
"""
