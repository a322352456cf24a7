"""An edit names exactly one place or is refused; everything else of the source survives byte for byte."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.errors import EditError
from researcher.source.edits import apply_edits
from researcher.source.proposal import Edit, SearchReplace, SetKnobs, WholeFile
from tests import TESTS

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()


def test_edits_are_applied_one_after_the_other() -> None:
    edits: tuple[Edit, ...] = (
        SetKnobs({"DEPTH": 4}),
        SearchReplace("        x = torch.relu(x).square()\n", "        x = torch.nn.functional.gelu(x)\n"),
        SearchReplace("        x = torch.nn.functional.gelu(x)\n", ""),
    )

    changed = apply_edits(SOURCE, edits)

    assert changed == SOURCE.replace("DEPTH = 2 ", "DEPTH = 4 ").replace("        x = torch.relu(x).square()\n", "")


@pytest.mark.parametrize(
    ("search", "replace", "before", "after"),
    [
        ("b = 2", "b = 3", "a = 1\nb = 2\nc = 3\n", "a = 1\nb = 3\nc = 3\n"),
        ("b = 2  \n", "b = 3\n", "b = 2\t\n", "b = 3\n"),
        ("\n\nb = 2\n", "\n\nb = 3\n", "a = 1\nb = 2\n", "a = 1\nb = 3\n"),
        ("b = 2\n", "b = 3\n\n", "b = 2\nc = 3\n", "b = 3\n\nc = 3\n"),
        ("b = 2\n", "", "a = 1\nb = 2\n", "a = 1\n"),
        ("b = 2", "b = 3\nd = 4", "a = 1\r\nb = 2\r\n", "a = 1\r\nb = 3\r\nd = 4\r\n"),
        ("a = 1\r\nb = 2\r\n", "a = 9\r\n", "a = 1\nb = 2\n", "a = 9\n"),
        ("b = 2", "b = 3", "a = 1\nb = 2", "a = 1\nb = 3"),
        ("b = 2", "b = 3", "a = 1\nb = 2  # why\n", "a = 1\nb = 3  # why\n"),
        ("b = 2", "b = 3", "ab = 2  # x\nb = 2  # why\nb = 20  # z\n", "ab = 2  # x\nb = 3  # why\nb = 20  # z\n"),
        ("ö = 2", "ö = '—'", "ä = 1\nö = 2\n", "ä = 1\nö = '—'\n"),
        (r"s = '\1\g<0>'", r"s = '\2'", "s = '\\1\\g<0>'\n", "s = '\\2'\n"),
    ],
)
def test_search_that_names_one_place_is_replaced(search: str, replace: str, before: str, after: str) -> None:
    assert apply_edits(before, [SearchReplace(search, replace)]) == after


def test_ambiguous_search_is_refused_and_names_the_lines() -> None:
    edits: list[Edit] = [SetKnobs({"DEPTH": 4}), SearchReplace("x = 1\n", "x = 2\n")]

    with pytest.raises(EditError, match=r"SEARCH of edit 2 matches 2 places in train.py \(lines 2, 4\); add a line"):
        apply_edits("DEPTH = 2\nx = 1\ny = 2\nx = 1\n", edits)


def test_missing_search_is_refused_with_the_nearest_real_lines() -> None:
    edit = SearchReplace("    def forward(self, x):\n        x = self.embedding(x)\n", "")

    with pytest.raises(EditError) as refusal:
        apply_edits(SOURCE, [edit])

    assert "SEARCH of edit 1 does not stand in train.py" in str(refusal.value)
    assert "23:     def forward(self, x):\n24:         # relu squared" in str(refusal.value)


@pytest.mark.parametrize(
    ("search", "replace", "before", "after"),
    [
        ("b = 2", "b = 3\n\nif c:\n    d = 5", "if a:\n  b = 2\n", "if a:\n  b = 3\n\n  if c:\n      d = 5\n"),
        ("  if a:\n\n    b = 2", "  if b:\n    a = 2", "    if a:\n\n      b = 2\n", "    if b:\n      a = 2\n"),
        ("    if a:\n        b = 2", "    if b:\n        b = 2", "if a:\n    b = 2\n", "if b:\n    b = 2\n"),
        ("if a:\n\tb = 2", "if b:\n\tb = 2", "\tif a:\r\n\t\tb = 2\r\n", "\tif b:\r\n\t\tb = 2\r\n"),
        ("b = 2", "b = 3", "  b = 2  # why\n  b = 2\n", "  b = 2  # why\n  b = 3\n"),
    ],
)  # fmt: skip
def test_search_that_is_indented_otherwise_is_replaced_by_lines_indented_alike(
    search: str, replace: str, before: str, after: str
) -> None:
    assert apply_edits(before, [SearchReplace(search, replace)]) == after


@pytest.mark.parametrize(
    ("search", "replace", "says"),
    [
        ("if a:\n  b = 2", "", "does not stand in train.py"),
        ("\tif a:\n\t    b = 2", "", "does not stand in train.py"),
        ("b = 2", "b = 3", r"matches 2 places in train.py \(lines 3, 5\)"),
        ("        c = 2", "        c = 3\nd = 4", "indented by 6 more than train.py, but not so .*: d = 4"),
    ],
)
def test_indentation_that_differs_in_itself_or_in_two_places_is_refused(search: str, replace: str, says: str) -> None:
    source = "  c = 2\n    if a:\n        b = 2\nelse:\n    b = 2\n"

    with pytest.raises(EditError, match=says):
        apply_edits(source, [SearchReplace(search, replace)])


def test_edit_that_was_applied_before_is_recognised() -> None:
    with pytest.raises(EditError, match="the change is there already"):
        apply_edits(SOURCE, [SearchReplace("DEPTH = 1  # layers", "DEPTH = 2  # layers")])


@pytest.mark.parametrize("search", ["", "\n \n", "nothing of the kind"])
def test_search_for_nothing_is_refused(search: str) -> None:
    with pytest.raises(EditError):
        apply_edits(SOURCE, [SearchReplace(search, "x = 1\n")])


def test_whole_file_takes_the_line_ends_of_the_source() -> None:
    assert apply_edits("a = 1\r\n", [WholeFile("a = 2\nb = 3")]) == "a = 2\r\nb = 3\r\n"


@given(
    st.lists(st.sampled_from(["if a:", "b = 2", "", "(", "# c", "ä"]), max_size=5).filter(any),
    st.sampled_from(["", "  ", "    ", "\t"]),
    st.sampled_from(["", "  ", "    ", "\t"]),
)
def test_lines_that_are_put_back_indented_otherwise_leave_every_byte_as_it_was(
    lines: list[str], more: str, less: str
) -> None:
    source = "head = 1\r\n" + "".join(f"{more}{less}{line}\r\n" if line else "\r\n" for line in lines) + "tail = 1"
    quoted = "\n".join(less + line if line else "" for line in lines)

    assert apply_edits(source, [SearchReplace(quoted, quoted)]) == source


@given(
    st.text(alphabet="ab =\n\r\t\x0c\u2028ä#()[]*\\", max_size=60),
    st.text(alphabet="ab =\n\r\t\x0c\u2028ä#()[]*\\", max_size=20),
    st.text(alphabet="ab =\n\r\t\x0c\u2028ä#()[]*\\", max_size=20),
)
def test_no_search_raises_anything_but_the_refusal(source: str, search: str, replace: str) -> None:
    with suppress(EditError):
        apply_edits(source, [SearchReplace(search, replace)])


@given(st.lists(st.sampled_from(["a = 1", "b = 2", "", "    c", "ä\u2028 = 1", "x\x0c"]), max_size=8), st.data())
def test_lines_before_and_after_the_place_survive(lines: list[str], data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(lines)))
    source = "".join(line + "\n" for line in [*lines[:position], "unique line", *lines[position:]])

    changed = apply_edits(source, [SearchReplace("unique line\n", "1\n2\n")])

    assert changed == source.replace("unique line\n", "1\n2\n")
