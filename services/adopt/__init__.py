"""`overnight init`: take a user's own repository as the subject, unedited.

`adopt` does it, `subject_check` tells whether a script has the known shape, and `static_values` reads constants without
running it.
"""
