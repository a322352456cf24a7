"""The run's own git repository: its commits, branch, tags and refs, and the push to the user's repository.

`repository` is the interface for the loop, `creation` creates the repository, `commits` plans and stores commits, and
`worktree` keeps the checked-out files. `earlier_runs` finds what an earlier run left where a run is about to begin.
`publishing` fetches the user's commit and pushes to the user's repository. `packing` packs the run's own repository,
`recovery` repairs a missing or damaged one, `backup` copies run and repository to a `backup_place` and back, and
`git_command` runs git without any user's hooks, filters and settings.

Importing the package removes the user's GIT_ variables from this process, because GitPython reads some of them and
passes all of them on. GIT_DIR of a hook would send our commits to another repository. A missing git is no error of the
import, so that the doctor can say it.
"""

import os

from trainer.jobs.environment import drop_variables

drop_variables("GIT_")
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
