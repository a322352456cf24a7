"""The settings of a run: one table of keys, read from the environment and from gpu.env.

`settings` is the table with the values of a run. `setting` holds the types of its rows, and `rules` the rules between
two settings. `data_digests` identifies the data that a setting names. `wiring` and the services import from here.
"""
