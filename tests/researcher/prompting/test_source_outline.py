"""A train.py too long for a prompt is shown in whole lines: what there is, what is in question, the rest in turn."""

from __future__ import annotations

import ast
import base64
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

import researcher
import trainer
from researcher.errors import BadLlmResponse, Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision
from researcher.prompting.context_budget import MESSAGE_TOKENS, tokens
from researcher.prompting.prompt import PromptContext, Prompts
from researcher.prompting.source_outline import knobs_apart, outline, refuse_marks
from researcher.proposers.prompt_context import prompt_context
from researcher.source.edits import apply_edits
from researcher.source.knobs import read_knobs
from researcher.source.proposal import EditFormat, Proposal, ProposerName, SearchReplace, SetKnobs, WholeFile
from tests import ROOT
from tests.fixtures.journal_story import PROFILE, Story

LAYER = """
class Layer{0}(Base):
    \"\"\"Layer number {0}.\"\"\"

    width = {0}

    def forward{0}(self, x, scale=1.0):
        \"\"\"What layer {0} does.\"\"\"
{1}
        return x * scale

"""
HEAD = '"""A long one."""\nimport torch\n\nDEPTH = 8  # layers; range 1..64\n'
LONG = HEAD + "".join(
    LAYER.format(number, "\n".join(f"        x = x + self.gain_{number}_{line}" for line in range(30)))
    for number in range(175)
)
ROOM = 16384 - 4096


def asked(**changes: object) -> tuple[str, str]:
    context = PromptContext("Lower the score.", "cpu", LONG, "1.8", ("1 discard: x",), **changes)  # type: ignore[arg-type]
    system, user = Prompts.read().messages(context, ROOM)
    return system.content, user.content


def test_200_kb_make_a_usable_prompt_that_says_what_it_leaves_out() -> None:
    system, text = asked()

    assert len(LONG) > 190_000
    assert "DEPTH = 8  # layers; range 1..64" in text
    assert "class Layer0(Base):" in text
    assert "gain_0_29" in text, "the first parts whole"
    assert "too many to be shown at once" in text
    assert "lines" in text.split("are not shown]")[-2]
    assert "- 1 discard: x" in text
    edit_formats = Prompts.read().texts
    assert [edit_format for edit_format in EditFormat if edit_formats[edit_format].strip() in system] == [
        EditFormat.SET,
        EditFormat.FUNCTION,
        EditFormat.SEARCH,
    ]


def test_every_line_of_the_view_is_a_line_of_the_file_or_says_that_it_is_not() -> None:
    view = str(outline(LONG, 6000, (), 3))

    assert {line for line in view.splitlines() if "not shown]" not in line} <= set(LONG.splitlines())
    shown = next(line for line in view.splitlines() if "self.gain" in line)
    after = apply_edits(LONG, (SearchReplace(f"{shown}\n", f"{shown} * 2\n"),))
    assert after == LONG.replace(shown, f"{shown} * 2"), "the edit is one of the whole file"


@pytest.mark.parametrize(
    ("source", "rest", "knobs"),
    [
        (
            "x\nA = 1\n# c\nB = 2\n\nC = (\n    3\n)\nf()\n",
            "x\n# [lines 2-8 are shown below]\nf()\n",
            "A = 1\n# c\nB = 2\n\nC = (\n    3\n)",
        ),
        ("A = 1\nB = 2\nC = 3\nf(A)\n", "A = 1\nB = 2\nC = 3\nf(A)\n", ""),
        ("f(); A = 1\nB = 2\nC = 3\nD = 4\nE = 5; f()\n", "f(); A = 1\nB = 2\nC = 3\nD = 4\nE = 5; f()\n", ""),
    ],
)
def test_blocks_of_knobs_stand_apart_as_they_are(source: str, rest: str, knobs: str) -> None:
    assert knobs_apart(source) == (rest, knobs)


def test_an_edit_that_copies_a_comment_of_the_view_is_refused() -> None:
    for mark in ("# [lines 2-8 are shown below]", "# [line 3 is not shown]", "# [lines 3-9 are not shown]"):
        with pytest.raises(Rejected, match="which stands for lines"):
            refuse_marks((WholeFile(f"x\n{mark}\nf()\n"),))


def test_what_an_idea_names_is_shown_whole_and_so_is_what_was_kept() -> None:
    _, text = asked(idea="Make forward121 multiply", named=("Layer77.forward77",))

    assert "gain_121_0" in text
    assert "gain_121_29" in text
    assert "gain_77_29" in text
    assert "gain_150_29" not in text


def test_over_the_turns_every_line_is_seen() -> None:
    source, seen = LONG[:25_000].rpartition("\nclass")[0], set[str]()
    for turn in range(9):
        seen |= set(str(outline(source, 6000, (), turn)).splitlines())

    assert [line for line in source.splitlines() if line.strip() and line not in seen] == []


@pytest.mark.slow
def test_a_view_stays_the_same_while_only_the_run_goes_on() -> None:
    _, before = asked(turn=4)
    _, after = asked(turn=4, rejections=("2 no",))
    _, later = asked(turn=5)

    fence = before.split("# Experiments")[0]
    assert after.startswith(fence)
    assert not later.startswith(fence)


def test_a_repair_shows_what_the_question_showed() -> None:
    context = PromptContext("Lower the score.", "cpu", LONG, "1.8")
    question = Prompts.read().messages(context, ROOM)

    repair = Prompts.read().repair(context, ROOM, "an answer " * 100, "no edit")

    assert repair[0] == question[0]
    assert repair[1].content.split("# Experiments")[0] == question[1].content.split("# Experiments")[0]


@pytest.fixture(scope="module")
def vocabulary() -> Tokenizer:
    """One that splits text as Qwen's does, with far fewer words."""
    split = Regex(
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    files = [str(path) for package in (researcher, trainer) for path in Path(package.__path__[0]).rglob("*.py")]
    files += [str(path) for path in (Path(researcher.__path__[0]) / "prompting" / "prompts").glob("*.md")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train(files, trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False))
    return found


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> JournalReader:
    """5,000 experiments: a few written down as the loop does, the others copied from them."""
    story = Story(tmp_path_factory.mktemp("long"))
    story.baseline(1.80, 1.82)
    for number in range(1, 40):
        story.try_out(f"move {number}", None if number % 5 == 0 else 1.9, Decision.DISCARD)
    proposal = Proposal(ProposerName.LLM, "模型 " * 20, "h", (SetKnobs({"A": 2}),))
    for number in range(6):
        story.journal.reject(story.run, proposal, f"line {number}: " + "0.123456 " * 60, story.tick())
    database = story.journal._database
    columns = [row["name"] for row in database.execute("PRAGMA table_info(experiment)")]
    changed = {"id": "id + 45 * ?", "number": "number + 45 * ?", "request": "NULL"}
    values = ", ".join(changed.get(name, name) for name in columns)
    with database:
        for copy in range(1, 112):
            database.execute(
                f"INSERT INTO experiment ({', '.join(columns)}) SELECT {values} FROM experiment "
                "WHERE id BETWEEN 2 AND 46",
                (copy, copy),
            )
    return story.journal


PIECES = st.sampled_from(
    (
        LAYER.format(7, "        x = x + 1"),
        "WEIGHTS = " + repr([random.Random(1).random() for _ in range(300)]) + "\n",
        "KEY = '" + base64.b64encode(random.Random(1).randbytes(3000)).decode() + "'\n",
        "NAME = '" + "".join(map(chr, range(0x4E00, 0x4F00))) + "😀👩‍👩‍👧' \n",
        "for step in range(9):\n" + "\n".join(f"    total_{i} = step * {i}.5e-{i}" for i in range(60)) + "\n",
        "\tx = (\n",
        Path(trainer.__file__).parent.joinpath("subject", "train.py").read_text(),
    )
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(PIECES, max_size=12),
    repeated=st.integers(1, 12),
    context_tokens=st.integers(2048, 131_072) | st.just(16384),
    idea=st.none() | st.text(max_size=300),
)
@pytest.mark.slow
def test_no_prompt_of_a_long_run_has_more_tokens_than_the_context_leaves(
    vocabulary: Tokenizer,
    long_run: JournalReader,
    pieces: list[str],
    repeated: int,
    context_tokens: int,
    idea: str | None,
) -> None:
    source = ("".join(pieces) * repeated)[:200_000]
    room = context_tokens - min(4096, context_tokens // 2)
    context = prompt_context(long_run, PROFILE, "Lower the score.", source, idea)

    try:
        messages = Prompts.read().messages(context, room)
    except BadLlmResponse as fault:
        assert "NUM_CTX" in str(fault)  # noqa: PT017
    else:
        assert sum(len(vocabulary.encode(each.content).ids) + MESSAGE_TOKENS for each in messages) <= room


@pytest.mark.parametrize(
    "text",
    [
        repr([random.Random(1).random() for _ in range(500)]),
        base64.b64encode(random.Random(1).randbytes(3000)).decode(),
        "".join(map(chr, range(0x4E00, 0x5000))),
        "\t" * 500 + " " * 500,
        Path(trainer.__file__).parent.joinpath("subject", "train.py").read_text(),
    ],
    ids=["numbers", "base64", "CJK", "blanks", "train.py"],
)
def test_no_estimate_is_below_what_a_vocabulary_counts(vocabulary: Tokenizer, text: str) -> None:
    assert len(vocabulary.encode(text).ids) <= tokens(text)


def test_the_long_one_is_python() -> None:
    ast.parse(LONG)


@pytest.mark.parametrize("context", [8192, 6144])
def test_the_knobs_of_the_subject_are_shown_before_anything_else(context: int) -> None:
    subject = (ROOT / "trainer" / "subject" / "train.py").read_text()
    knobs = [name for name, knob in read_knobs(subject).items() if knob.range is not None]
    asked = PromptContext("Lower the score.", "profile cpu", subject, "It scores 1.8.")

    text = Prompts.read().messages(asked, context - context // 4)[1].content

    assert "are not shown]" in text
    assert [name for name in knobs if f"\n{name} = " not in text] == []
