"""Builds prompts and reads answers: text in, text or edits out.

`prompt` fills the templates in `prompts/`, `source_outline` shortens a long train.py, and `context_budget` computes the
space for a prompt. `reply_parser`, `thoughts`, `code_fences` and `knob_json` read an answer, `chat_markers` disables
the marks of chat templates, and `transcripts` stores prompts and answers. Proposers import from here.
"""
