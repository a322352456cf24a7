"""The researcher's errors, for cases that a caller can act on. A candidate's failure is an outcome, not an error.

OvernightError       the message consists of `found` and `next_step`; the services' errors are of this kind
├── BackupError      a backup cannot be written, found or restored
└── BadValue         a setting has an invalid value; also a ResearcherError and a ValueError

ResearcherError
├── EditError        an edit does not fit its source
├── Rejected         a proposal never becomes a trial; users and the next prompt see the message
├── LlmUnavailable   no LLM can be reached, or the server cannot run this model: try again later
│   ├── ModelMissing           the server does not have the model
│   ├── LlmTimeout             the server accepted a question and did not begin to answer
│   ├── ModelDoesNotFit        the model cannot be loaded as requested, or not completely onto the GPU
│   ├── ModelNotUnloaded       the model stays on the GPU that a trial needs
│   ├── GpuBusy                a trial needs the GPU of the LLM
│   └── SpendingLimitReached   the possible cost of an answer exceeds the rest of the spending limit
├── BadLlmResponse   the LLM's response is no usable answer
│   ├── ReasoningUsedUpOutput  the response contains reasoning only
│   └── LlmServerFault         the server gave no complete answer, and the LLM is not to blame
│       ├── PromptTooLong      the prompt is longer than the server's context
│       └── PromptTruncated    the server counted fewer tokens than the prompt must have
├── NotText          a file that a user writes is not text in UTF-8
├── SubjectError     the subject's repository is missing, dirty or incomplete
│   └── SubjectDamaged         the repository cannot be read or written any more
└── JournalError     the journal is locked, newer than this code, or damaged
"""


class OvernightError(Exception):
    """An error that a user can fix.

    `found` says what is wrong and where, `next_step` what to do; the message is both.
    """

    def __init__(self, found: str, next_step: str) -> None:
        super().__init__(found, next_step)
        self.found = found
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.found}; {self.next_step}"


class BackupError(OvernightError):
    """A backup cannot be written, found or restored."""


class ResearcherError(Exception):
    """The base of the researcher's errors. The message says what failed, where, and the next step."""


class EditError(ResearcherError):
    """An edit does not fit its source."""


class Rejected(ResearcherError):
    """A proposal that never becomes a trial."""


class LlmUnavailable(ResearcherError):
    """No LLM can be reached, or the server cannot run this model."""


class ModelMissing(LlmUnavailable):
    """The server answers, but does not have the model."""


class LlmTimeout(LlmUnavailable):
    """The server accepted a question and did not begin to answer."""


class ModelDoesNotFit(LlmUnavailable):
    """The model cannot be loaded as requested, or not completely onto the GPU."""


class ModelNotUnloaded(LlmUnavailable):
    """The model stays on the GPU that a trial needs."""


class GpuBusy(LlmUnavailable):
    """A trial needs the GPU of the LLM, so that no answer begins or goes on."""


class SpendingLimitReached(LlmUnavailable):
    """The highest possible cost of an answer exceeds the rest of the spending limit."""


class BadLlmResponse(ResearcherError):
    """The LLM's response is no usable answer: cut off, an error line, or empty."""


class ReasoningUsedUpOutput(BadLlmResponse):
    """The LLM's reasoning used up its output, or nothing followed the reasoning."""


class LlmServerFault(BadLlmResponse):
    """The server gave no complete answer: it broke off, ran out of time, or refused the question."""


class PromptTooLong(LlmServerFault):
    """The server refused a question that is longer than its context."""


class PromptTruncated(LlmServerFault):
    """The server counted fewer tokens than the question must have, so the LLM has not read all of it."""


class NotText(ResearcherError):
    """A file that a user writes is not text in UTF-8. The message names the file and the next step."""


class SubjectError(ResearcherError):
    """The subject's repository is missing, dirty or incomplete."""


class SubjectDamaged(SubjectError):
    """The subject's repository is missing or damaged; the message describes the damage."""


class JournalError(ResearcherError):
    """The journal is locked by another researcher, written by a newer version, or damaged."""


class BadValue(OvernightError, ResearcherError, ValueError):
    """A setting has an invalid value. `found` quotes no secret; `next_step` says how to correct the setting."""
