"""The part of each prompt that equals the beginning of the one before: servers read only the rest again.

The journal of a run is written without running it: most experiments are discarded, some kept, some crash, some answers
cannot be used. The share of characters stands for that of tokens; how much a server really reuses is not measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.table import Table

import trainer
from researcher.journal.records import Decision
from researcher.llm.client import Message
from researcher.prompting.prompt import Prompts
from researcher.proposers.prompt_context import prompt_context
from researcher.source.proposal import Proposal, ProposerName
from tests.fixtures.journal_story import PROFILE, Story

ROOM = 16384 - 4096
KEPT_EVERY, CRASHED_EVERY, REJECTED_EVERY = 12, 9, 7
LONG_COPIES = 9


def run(experiments: int) -> None:
    """Build the prompts of a run on the shipped subject and on a long one, and print the table."""
    subject = Path(trainer.__file__).parent.joinpath("subject", "train.py").read_text(encoding="utf-8")
    table = Table(title=f"questions of {experiments} experiments, {ROOM} tokens of room", title_justify="left")
    for heading in ("train.py", "characters a question", "shared with the one before", "median", "between keeps"):
        table.add_column(heading, justify="left" if heading == "train.py" else "right")
    for name, source in (("shipped", subject), ("of 200 KB", subject * (LONG_COPIES + 1))):
        with tempfile.TemporaryDirectory(prefix="overnight-bench-") as folder:
            asked = [*questions(Path(folder), source, experiments)]
        shares = [shared(*pair) for pair in pairwise(text for text, _ in asked)]
        between = [share for share, (_, kept) in zip(shares, asked[1:], strict=True) if not kept]
        table.add_row(
            name,
            f"{fmean(len(text) for text, _ in asked):.0f}",
            *(f"{100 * value:.1f} %" for value in (fmean(shares), median(shares), fmean(between))),
        )
    Console(width=100).print(table)


def shared(before: str, after: str) -> float:
    """Return the share of a prompt that equals the beginning of the one before."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    return same / len(after)


def questions(folder: Path, source: str, experiments: int) -> Iterator[tuple[str, bool]]:
    """Yield each prompt of a run, and whether the experiment before it was kept."""
    prompts, story = Prompts.read(), Story(folder)
    story.baseline(1.80, 1.82)
    for number in range(1, experiments + 1):
        kept = number % KEPT_EVERY == 0
        if number % REJECTED_EVERY == 0:
            story.journal.reject(story.run, _proposal(number), f"line {number} does not parse", story.tick())
        elif number % CRASHED_EVERY == 0:
            story.try_out(f"move {number} of the layers", None, Decision.CRASH)
        else:
            score = 1.80 - number / 1000 if kept else 1.83
            story.try_out(f"move {number} of the layers", score, Decision.KEEP if kept else Decision.DISCARD)
        source = f"{source}# kept {number}\n" if kept else source
        context = prompt_context(story.journal, PROFILE, "Lower the score.", source, idea=None)
        yield _text(prompts.messages(context, ROOM)), kept
    story.journal.close()


def _proposal(number: int) -> Proposal:
    return Proposal(ProposerName.LLM, f"idea {number}", "it may help", ())


def _text(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)
