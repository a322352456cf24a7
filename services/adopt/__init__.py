"""`overnight init`: take a user's own repository as the subject, unedited.

`adopt` does it, `subject_check` tests whether the scripts have the known shape, and `static_values` reads constants
without running a script.
"""
