"""What a model is told, and how its answer is read: text in, text or edits out.

`prompt` fills the templates in `prompts/`, `source_outline` shortens a long train.py, `token_estimate` and
`context_budget` measure what fits. `reply_parser`, `code_fences` and `knob_json` read an answer,
`chat_markers` defuses the marks of chat templates, and `transcripts` keeps what was said. Proposers import from here.
"""
