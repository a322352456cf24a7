"""The read model: the state of a run for users, built from the journal and Redis.

`snapshot` returns the whole state as one report, and all views start from it. `view` reads the run and its live status,
`document` holds the types of its JSON. `results_table` defines the columns and writes results.tsv, `staircase` computes
the incumbent's score over the experiments, `picture` draws progress.png in the forms and with the places of text of
`picture_layout`, `proposer_stats` computes each proposer's figures, and `stall_alarm` detects a stalled run. No module
that proposes or decides imports this folder.

Importing the package removes the variables from this process with which the user chooses settings of matplotlib.
"""

from trainer.jobs.environment import drop_variables

drop_variables("MPLBACKEND")
drop_variables("MATPLOTLIBRC")
