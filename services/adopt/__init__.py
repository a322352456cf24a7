"""`overnight init`: take a user's own repository as the subject, unedited.

`adopt` does it, and `subject_check` tests whether the scripts have the known shape. Both read and never run a script:
`static_values` its constants, `conditions` under which its parts run, `packages` its imports, `hub_cache` what it loads
from a hub. `stand_in` writes the prepare.py that trials get.
"""
