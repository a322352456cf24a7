"""The journal: the durable record of a run, in SQLite.

`records` holds the rows as dataclasses, `reader` reads them, `writer` changes them one transaction at a time, and
`database` opens the file and runs the scripts in `migrations/`. All folders above import from here.
"""
