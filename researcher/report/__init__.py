"""The read model: what users see of a run, built from the journal and Redis.

`snapshot` returns all of it as one report, and is the way in for whatever shows a run. Its parts: `view` reads the run
and what goes on now, `results_table` has the columns and writes results.tsv, `picture` draws progress.png,
`proposer_stats` counts how well each proposer does, and `stall_alarm` notices that a run does not move. Nothing that
proposes or decides imports this folder.
"""
