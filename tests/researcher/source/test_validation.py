"""What can be known without running a source is known here, and said in words."""

import ast
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import researcher
from researcher.errors import Rejected
from researcher.source.fingerprint import read_facts
from researcher.source.proposal import Candidate, Edit, Proposal, ProposerName, SearchReplace, SetKnobs, WholeFile
from researcher.source.validation import fingerprint, validate
from tests import TESTS
from trainer.jobs.spec import TRAIN_LIMIT_BYTES

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()


def check(*edits: Edit, source: str = SOURCE, tried: dict[str, str] | None = None) -> Candidate:
    said = tried or {}
    proposal = Proposal(ProposerName.LLM, "title", "hypothesis", edits)
    return validate(proposal, source, lambda candidate: said.get(candidate.fingerprint))


def swap(old: str, new: str) -> WholeFile:
    assert old in SOURCE
    return WholeFile(SOURCE.replace(old, new))


def test_change_of_the_program_becomes_a_candidate() -> None:
    candidate = check(SetKnobs({"DEPTH": 4}))

    assert candidate.source == SOURCE.replace("DEPTH = 2 ", "DEPTH = 4 ")
    assert candidate.fingerprint == fingerprint(candidate.source) != fingerprint(SOURCE)
    assert candidate.added_lines == 0


@pytest.mark.parametrize(
    ("edit", "added"),
    [
        (SearchReplace("        x = torch.relu(x).square()\n", ""), -1),
        (SearchReplace("        # relu squared\n", "        # two\n        # lines\n        x = x + 1\n"), 1),
        (
            SearchReplace(
                "    loss.backward()\n", "    (\n        loss\n        .mean()\n        .backward()\n    )\n"
            ),
            0,
        ),
        (SearchReplace("    loss.backward()\n", "    loss = loss * 2; loss.backward()\n"), 1),
    ],
)
def test_growth_is_counted_in_statements_so_that_layout_buys_nothing(edit: Edit, added: int) -> None:
    assert check(edit).added_lines == added


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (SetKnobs({"DEPTH": 9}), "DEPTH = 9 is outside of its range 1..8"),
        (SetKnobs({"DEPTH": 2}), "change nothing: DEPTH = 2 stands"),
        (SearchReplace("nowhere", "x"), "does not stand in train.py"),
        (WholeFile("def f(:\n    pass\n"), "does not parse: line 1: invalid syntax: def f(:"),
        (swap("DEPTH = 2 ", "DEPTH = \0"), "does not parse"),
        (swap("DEPTH = 2 ", "DEPTH = '\ud800' "), "not text"),
        (swap("tokenizer = ", "return\ntokenizer = "), "does not compile: line 30: 'return' outside function: return"),
        (WholeFile(SOURCE + "global DEPTH\n"), "does not compile: line "),
        (WholeFile(SOURCE + "from __future__ import annotations\n"), "does not compile: line "),
        (WholeFile(SOURCE + "#" * TRAIN_LIMIT_BYTES), f"the limit is {TRAIN_LIMIT_BYTES}"),
        (swap("# relu squared", "# gelu"), "only comments, docstrings or layout"),
        (swap('"""Embeds and projects."""', '"""Other words."""'), "only comments, docstrings or layout"),
        (swap("model = Model(", "model  =  Model("), "only comments, docstrings or layout"),
        (swap("2**12", "4096"), "only comments, docstrings or layout"),
        (SetKnobs({"SEED": 43}), "only the random seed"),
        (swap("SEED = 42", "SEED = int('43')"), "only the random seed"),
        (swap("manual_seed(SEED)", "manual_seed(7)"), "only the random seed"),
        (swap("torch.manual_seed(SEED)\n", ""), "only the random seed"),
        (swap("manual_seed(SEED)", "manual_seed(7)\ntorch.cuda.manual_seed_all(8)"), "only the random seed"),
        (
            swap("evaluate_bpb(model, tokenizer, 4)", "1.0"),
            "must keep the call of evaluate_bpb() imported from prepare",
        ),
        (swap("while progress() < 1", "while True"), "must keep the call of progress()"),
        (swap("evaluate_bpb, make", "make"), "must keep the call of evaluate_bpb()"),
        (swap("loader = make_dataloader", "loader = mine"), "must keep the call of make_dataloader()"),
        (swap("model = Model(", "net = Model("), "must keep the assignment of `model` at module level"),
        (WholeFile("x = 1\n"), "must keep the call of evaluate_bpb() imported from prepare, the call of make"),
    ],
)
def test_proposal_that_cannot_become_a_trial_is_rejected_with_the_reason(edit: Edit, reason: str) -> None:
    with pytest.raises(Rejected) as rejection:
        check(edit)

    assert reason in str(rejection.value)


def test_expression_that_is_nested_too_deeply_is_rejected_wherever_this_python_gives_up() -> None:
    with pytest.raises(Rejected, match=r"does not parse|too deeply"):
        check(WholeFile(SOURCE + "x = " + "-" * 5000 + "1\n"))


def test_the_same_change_is_known_again_on_other_code_and_another_one_is_not() -> None:
    elsewhere = SOURCE.replace("DEPTH = 2", "DEPTH = 3").replace("    loss.backward()\n", "    loss.backward()  # !\n")
    edit = SearchReplace("        x = torch.relu(x).square()\n", "        x = torch.relu(x)\n")
    laid_out = SearchReplace(
        "        x = torch.relu(x).square()\n", "        x = torch.relu(  # plain\n            x)\n"
    )

    change = check(edit).change

    assert check(edit, source=elsewhere).change == check(laid_out, source=elsewhere).change == change
    assert check(SetKnobs({"DEPTH": 4})).change != check(SetKnobs({"DEPTH": 4}), source=elsewhere).change
    assert check(SetKnobs({"DEPTH": 4})).change != change


def test_code_that_was_tried_before_is_rejected_with_what_came_of_it() -> None:
    tried = {fingerprint(SOURCE.replace("DEPTH = 2", "DEPTH = 4")): "tried before (experiment 12: discard, 1.812)"}
    other_layout = SOURCE.replace("DEPTH = 2 ", "DEPTH = (4) ")

    with pytest.raises(Rejected, match=r"tried before \(experiment 12: discard, 1.812\)"):
        check(WholeFile(other_layout), tried=tried)


def test_entry_points_that_the_incumbent_never_had_are_not_asked_for() -> None:
    source = "from prepare import progress\n\n\ndef main():\n    model = progress()\n\n\nmain()\n"

    assert check(WholeFile(source.replace("main()", "run()")), source=source).added_lines == 0


def test_entry_points_are_seen_through_other_names_and_blocks() -> None:
    source = SOURCE.replace("evaluate_bpb, make", "evaluate_bpb as bpb, make").replace("{evaluate_bpb(", "{bpb(")
    source = source.replace("model = Model(", "if True:\n    model = Model(")

    assert check(WholeFile(source)).added_lines == 1


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ('"""Doc."""\n# comment\n\n', 0),
        ("x = [\n    1,\n    2,\n]\n", 1),
        ("x = 1; y = 2\n", 2),
        ('def f():\n    """Doc."""\n    return 1\n', 2),
        ("try:\n    x = 1\nexcept ValueError:\n    pass\n", 4),
    ],
)
def test_logical_lines_are_counted(source: str, lines: int) -> None:
    assert read_facts(source).lines == lines


@given(st.text(max_size=200) | st.text(alphabet="abx=(){}[]:'\"\\\n\t #0129*.lambda", max_size=200))
def test_no_text_raises_anything_but_the_rejection(text: str) -> None:
    edits: list[Edit] = [WholeFile(text), SearchReplace("        x = self.embed(x)\n", text)]

    for edit in edits:
        with suppress(Rejected):
            check(edit)


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=50))
def test_comments_never_change_the_fingerprint(comment: str) -> None:
    assert fingerprint(SOURCE.replace("# relu squared", "# " + comment)) == fingerprint(SOURCE)


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("x = 1; y = 2\n", "x = 1\ny = 2\n"),
        ("x = 1; \\\n y = 2\n", "x = 1\ny = 2\n"),
        ("x = 1 \\\n\ny = 2;\n", "x = 1\ny = 2\n"),
        ("\x0cx = 1\n\x0cy = 2", "x = 1\ny = 2\n"),
        ("x = 1\r# one\ry = 2\r\n", "x = 1\ny = 2\n"),
        ('x = """ä\n  b"""; y = 2\nz = "ö"; w = 3\n', 'x = "ä\\n  b"\ny = 2\nz = "ö"\nw = 3\n'),
        ("@ one\n# why\n@two(\n3)\ndef f(): return 1\ny = 2\n", "@one\n@two(3)\ndef f():\n    return 1\ny = 2\n"),
        ("if x: y = 1\nelse: y = 2\nz = 3\n", "if x:\n    y = 1\nelse:\n    y = 2\nz = 3\n"),
    ],
)
def test_layout_never_changes_the_fingerprint(source: str, plain: str) -> None:
    assert fingerprint(source) == fingerprint(plain)
    assert read_facts(source).lines == read_facts(plain).lines


@pytest.mark.parametrize("path", sorted(Path(researcher.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_a_real_module_is_the_same_program_after_python_has_laid_it_out_anew(path: Path) -> None:
    source = path.read_text()

    assert fingerprint(source) == fingerprint(ast.unparse(ast.parse(source)))
