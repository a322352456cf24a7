"""The researcher's errors, for what a caller can act on. What a candidate did is an outcome, not an error.

OvernightError       its text is two fields, `found` and `next_step`; the services' errors are of this kind
└── BadValue         a setting cannot have this value; also a ResearcherError and a ValueError

ResearcherError
├── EditError        an edit does not fit the source it names
├── Rejected         a proposal that never becomes a trial; its text goes to the person and the next prompt
├── LlmUnavailable        no LLM can be reached, or it cannot serve this model: try again later
│   ├── ModelMissing     the server is there without it
│   ├── LlmTimeout      it took a question and never began to answer
│   ├── ModelDoesNotFit  it cannot be loaded as asked, or not wholly onto the GPU
│   ├── ModelNotUnloaded       it does not leave the GPU that a trial needs
│   └── SpendingLimitReached       what its answer may cost does not fit into what is left to spend
├── BadLlmResponse       the LLM answered, but not with an answer
│   ├── ReasoningUsedUpOutput  it thought, and nothing came of it
│   └── PromptTruncated     its server counted fewer words than it was sent
├── SubjectError     the repository under study is missing, dirty or of the wrong shape
│   └── SubjectDamaged   it cannot be read or written any more
└── JournalError     the journal is locked, newer than this code, or damaged
"""


class OvernightError(Exception):
    """A user can fix this: `found` says what is wrong and where, `next_step` what to do. The text is both."""

    def __init__(self, found: str, next_step: str) -> None:
        super().__init__(found, next_step)
        self.found = found
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.found}; {self.next_step}"


class ResearcherError(Exception):
    """Base of them all; the message says what, where and the next step."""


class EditError(ResearcherError):
    """An edit does not fit the source it names."""


class Rejected(ResearcherError):
    """A proposal that never becomes a trial."""


class LlmUnavailable(ResearcherError):
    """No LLM can be reached, or it cannot serve this model."""


class ModelMissing(LlmUnavailable):
    """The server answers, and does not have the model."""


class LlmTimeout(LlmUnavailable):
    """The server took a question and never began to answer."""


class ModelDoesNotFit(LlmUnavailable):
    """The model cannot be loaded as asked, or not wholly onto the GPU."""


class ModelNotUnloaded(LlmUnavailable):
    """The model does not leave the GPU that a trial needs."""


class SpendingLimitReached(LlmUnavailable):
    """The most that an answer can cost does not fit into what is left of the cap."""


class BadLlmResponse(ResearcherError):
    """The LLM answered, but not with an answer: cut off, an error line, an empty text."""


class ReasoningUsedUpOutput(BadLlmResponse):
    """The LLM thought until its room was used up, or stopped after that."""


class PromptTooLong(BadLlmResponse):
    """The server refused a question that is longer than its context."""


class PromptTruncated(BadLlmResponse):
    """The server counted fewer tokens than the question has words: the LLM has not read all of it."""


class SubjectError(ResearcherError):
    """The repository under study is missing, dirty or of the wrong shape."""


class SubjectDamaged(SubjectError):
    """The repository under study is gone or corrupted; the message says how."""


class JournalError(ResearcherError):
    """The journal is locked by another researcher, written by a newer version, or damaged."""


class BadValue(OvernightError, ResearcherError, ValueError):
    """A setting cannot have this value. `found` quotes no secret; `next_step` says what to write instead."""
