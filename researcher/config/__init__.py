"""The settings of a run: one table of keys, read from the environment and from gpu.env.

`settings` is the table with the values of a run, `setting` the types of its rows, and `rules` holds what two settings
ask of each other. `wiring` and the services import from here.
"""
