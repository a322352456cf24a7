"""The run's own git repository: commits, resets, tags and refs, and what is pushed to the user's repository.

`repository` is what the loop works with, `commits` reads and writes commits, `worktree` keeps the files beside them,
`publishing` begins at the user's commit and pushes to the user's repository, `recovery` repairs what an interruption
left, and `git_command` runs git without anybody's hooks, filters and settings.
"""
