"""The bounded log sink and what is read from it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.jobs.redaction import redaction
from trainer.jobs.result import LOSS_POINTS
from trainer.sandbox.output import LATE_HEADING, LINE_BYTES, LogSink, Output
from trainer.sandbox.step_lines import Printed


def fed(chunks: list[bytes], cap_kib: int = 64) -> tuple[LogSink, Printed]:
    printed = Printed()
    sink = LogSink(cap_kib, printed.line, redaction(["bicycle-42"]))
    for chunk in chunks:
        sink.feed(chunk)
    sink.finish()
    return sink, printed


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([b"one\ntwo"], "one\ntwo\n"),
        ([b"\rbar 1\rbar 2\r", b"\n"], "bar 1\nbar 2\n"),
        ([b"\x1b[31mred\x1b[0m\x07\x00\n"], "red\n"),
        ([b"\x1b[3", b"1msplit\n"], "split\n"),
        ([b"blank\n\n  \nlines\n"], "blank\nlines\n"),
        ([b"x" * 9000, b"y" * 9000, b"\nnext\n"], "x" * LINE_BYTES + "\nnext\n"),
        ([b"\xff\xfe\n"], "��\n"),
        (["\x9b31mred\u202eder\u200b\n".encode()], "31mredder\n"),
    ],
)
def test_output_is_cleaned(chunks: list[bytes], text: str) -> None:
    assert fed(chunks)[0].text() == text


@pytest.mark.parametrize("at", range(40))
def test_secret_is_found_wherever_reads_and_lines_are_cut(at: int) -> None:
    printed = b"x" * (LINE_BYTES - 20) + b" bicycle-42 is it\nit is bicycle-42\nbicycle-42"
    cut = LINE_BYTES - 30 + at

    for cap_kib in (1, 64):
        sink, _ = fed([printed[:cut], printed[cut:]], cap_kib)
        assert "bicycle" not in sink.text()
        assert sink.last_lines(2)[-1] == "[redacted]"


@given(st.lists(st.binary(max_size=3000), max_size=40))
def test_kept_text_is_bounded_and_free_of_controls(chunks: list[bytes]) -> None:
    sink, _ = fed(chunks, cap_kib=2)

    assert sink.seen_bytes == sum(map(len, chunks))
    assert len(sink.text().encode(errors="replace")) <= 3 * (2 * 1024 + LINE_BYTES) + 40
    assert not set(sink.text()) & {"\x1b", "\r", "\x00", "\x07"}


def test_head_and_tail_survive_a_flood() -> None:
    sink, _ = fed([b"first\n", *[b"noise\n" * 1000] * 100, b"last\n"], cap_kib=16)

    lines = sink.text().splitlines()

    assert (lines[0], lines[-1]) == ("first", "last")
    assert any("bytes left out" in line for line in lines)
    assert len(sink.text()) <= 16 * 1024 + 40


def test_loss_curve_is_thinned_but_keeps_both_ends() -> None:
    _, printed = fed([b"step %05d (%.1f%%) | loss: %f | lrm: 1.00\r" % (n, n / 10, 9 - n / 1000) for n in range(1000)])

    assert len(printed.curve) <= LOSS_POINTS
    assert (printed.curve[0].step, printed.curve[-1].step) == (0, 999)
    assert printed.curve[-1].progress == pytest.approx(0.999)
    assert printed.steps == 1000


def test_summary_is_read_and_a_dash_is_no_number() -> None:
    summary = "---\nval_bpb:          1.234567\npeak_vram_mb:     —\nnum_steps:        953  \nnum_params_M:     50.3\n"

    _, printed = fed([summary.encode()])

    assert printed.summary == {"val_bpb": 1.234567, "num_steps": 953.0, "num_params_M": 50.3}
    assert printed.steps == 953


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e300", "-5"])
def test_number_that_cannot_be_is_not_taken_from_a_summary(number: str) -> None:
    names = ("peak_vram_mb", "num_steps", "num_params_M", "total_tokens_M")

    _, printed = fed([f"{name}: {number}\n".encode() for name in names])

    assert printed.summary == {}


@pytest.mark.parametrize("number", ["nan", "inf", "1e300"])
def test_score_that_cannot_be_was_printed_and_agrees_with_nothing(number: str) -> None:
    _, printed = fed([f"val_bpb: {number}\n".encode()])

    assert math.isnan(printed.summary["val_bpb"])


@given(st.binary(max_size=500))
def test_any_line_can_be_printed(line: bytes) -> None:
    printed = Printed()

    printed.line(line)
    printed.line(b"step " + line)

    assert len(printed.curve) <= 1


def output(before: bytes, after: bytes) -> tuple[Output, Printed]:
    printed = Printed()
    sink = Output(64, printed, redaction(["bicycle-42"]))
    sink.feed(before)
    sink.seal()
    sink.feed(after)
    sink.finish()
    return sink, printed


def test_what_came_after_the_score_was_asked_for_is_kept_for_users_and_quoted_nowhere() -> None:
    sink, _ = output(b"step 1\nhalf a li", b"ne of 17 4 33\nbicycle-42\n")

    assert sink.quotable_text() == "step 1\nhalf a li\n"
    assert sink.last_lines(5) == []
    assert sink.last_words(2) == ["ne of 17 4 33", "[redacted]"]
    assert sink.text() == f"step 1\nhalf a li\n{LATE_HEADING}\nne of 17 4 33\n[redacted]\n"
    assert sink.seen_bytes == len(b"step 1\nhalf a line of 17 4 33\nbicycle-42\n")


def test_after_that_only_the_numbers_of_the_summary_are_read_in_few_digits() -> None:
    step = b"step 00003 (17.4%) | loss: 33.9\n"

    _, printed = output(step, step.replace(b"3", b"4") + b"num_params_M: 1.23456789012345\nheard: 3\nval_bpb: 1.25\n")

    assert [point.step for point in printed.curve] == [3]
    assert printed.last is not None
    assert printed.last.step == 3
    assert printed.summary == {"num_params_M": 1.23456789, "val_bpb": 1.25}


@pytest.mark.parametrize(
    ("said", "is_ours"),
    [
        ("model(x) gave shape (4, 16, 99), not logits of shape (4, 16, 48)", True),
        ("model(x) gave shape (4,), not logits of shape (4, 16, 48)", True),
        ("model(x) gave no tensor, not logits of shape (4, 16, 48)", True),
        ("model(x) gave shape (), not logits of shape (4, 16, 48)", True),
        ("model(x) gave shape (17, 4, 33, 9, 2), not logits of shape (4, 16, 48)", False),
        ("model(x) gave shape (1234567,), not logits of shape (4, 16, 48)", False),
        ("asked: 17 4 33 9", False),
        ("model(x) gave shape (4, 16, 99), not logits of shape (4, 16, 48); asked: 17", False),
    ],
)
def test_of_what_a_process_says_is_wrong_then_only_our_own_sentence_is_told(said: str, is_ours: bool) -> None:
    sink = Output(64, Printed(), redaction())
    assert sink.fault(said) == said

    sink.seal()

    assert (sink.fault(said) == said) is is_ours
