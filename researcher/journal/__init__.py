"""The journal: the durable record of a run, in SQLite.

`records` holds the rows as dataclasses, `reader` reads them, `writer` changes them one transaction at a
time, `database` opens the file and runs the scripts in `migrations/`. Everything above imports from here.
"""
