"""The proposers: whose turn the next experiment is, and how its change of train.py is found.

`proposers` combines them, `schedule` says whose turn it is. The LLM's side is `llm_proposer`, `llm_conversation`,
`prompt_context`, `digest`, `edit_formats`, `advice`, `prefetch`, `availability`, `escalation` and `meter`; what a run
has learned is in `lessons` and `combining`; `novelty` and `memory` reject what is known to be useless. The loop imports
`Proposers` and `Draft`.
"""
