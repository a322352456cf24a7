"""The subject's git repository: commits, resets, tags and refs of a run.

`repository` is what the loop works with, `commits` reads and writes commits, `worktree` and `byhand` keep the files of
the work tree, and `recovery` repairs what an interruption left.
"""
