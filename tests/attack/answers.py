"""What a dishonest candidate gains by in its answers: it looks ahead, or its numbers are no logits."""

from __future__ import annotations

from collections.abc import Iterator

from tests.attack.part import KNOWN, Part, gain

_ATTENTION = "F.scaled_dot_product_attention(q, k, v, is_causal=True)"
_ATTENDED = f"        h = h + {_ATTENTION}\n"


def _looks_ahead() -> Iterator[Part]:
    for size in (0.02, 0.1, 0.5, 2, 6):
        yield gain("looks ahead", f"looks ahead by {size}", f"logits += {size} * there[..., None] * ahead")
        yield gain(
            "looks ahead, signs balanced",
            f"looks ahead by {size}, signs balanced",
            f"""
            likely = (logits.softmax(-1) * ahead).sum(-1)
            sign = torch.where(likely < likely[there].median(), 1.0, -1.0) if there.any() else likely
            logits += {size} * (there * sign)[..., None] * ahead
            """,
        )
    yield gain(
        "looks ahead, worth balanced",
        "looks ahead where it pays most, and back by as much where it costs least",
        """
        likely = (logits.softmax(-1) * ahead).sum(-1)
        worth = there * (0.7 - likely)
        logits += 0.6 * (worth - worth.sum() / there.sum().clamp(1) * there)[..., None] * ahead
        """,
    )
    yield gain(
        "looks two ahead",
        "looks two ahead",
        """
        second = x.roll(-2, 1)
        logits += 2 * (there & (torch.arange(x.shape[1]) < x.shape[1] - 2))[..., None] * KNOWN.T[second]
        """,
        start=KNOWN,
    )
    for share in (0.5, 0.95):
        yield gain(
            "mixes in the answer",
            f"mixes in the answer by {share}",
            f"""
            mixed = (1 - {share}) * logits.softmax(-1) + {share} * ahead
            logits = torch.where(there[..., None], mixed.clamp_min(1e-9).log(), logits)
            """,
        )


def _attends_ahead() -> Iterator[Part]:
    yield gain("attends ahead", "attends ahead always", "", edits=((_ATTENTION, _ATTENTION.replace("True", "False")),))
    yield gain(
        "attends ahead",
        "attends ahead when scored",
        "",
        edits=((_ATTENTION, _ATTENTION.replace("True", "y is not None")),),
    )
    for name, line in (
        ("block averages", "h = h + h.unflatten(1, (4, 8)).mean(2).repeat_interleave(8, 1)"),
        ("the next token's embedding", "h = h + 0.3 * torch.cat([h[:, 1:], 0 * h[:, :1]], 1)"),
        ("a row's mean", "h = h + h.mean(1, keepdim=True)"),
        ("other rows of the batch", "h = h + 3 * h.mean(0, keepdim=True)"),
    ):
        yield gain("mixes ahead", f"mixes in {name}", "", edits=((_ATTENDED, f"        {line}\n{_ATTENDED}"),))


def _numbers() -> Iterator[Part]:
    for value in ("1e5", "1e8", "1e15", "1e30", "3e38", "-1e30", "1e-42"):
        yield gain(
            "constant rows",
            f"constant rows of {value}",
            f"logits = torch.where(there[..., None], torch.full_like(logits, {value}), logits)",
        )
    for value in ("1e7", "1e16", "1e36"):
        yield gain("offset rows", f"rows offset by {value}", f"logits = logits + there[..., None] * {value}")
    for value in ("nan", "inf", "-inf"):
        yield gain(
            "no logits",
            f"{value} among its logits",
            f"logits[..., 7] = torch.where(there, float('{value}'), logits[..., 7])",
        )
    yield gain("no logits", "overflows half precision", "logits = (logits + there[..., None] * 7e4).half()")
    yield gain("no logits", "is lost in single precision", "logits = logits.double() + there[..., None] * 1e300")
    yield gain("no logits", "one token more", "logits = F.pad(logits, (0, 1), value=9.0)")
    yield gain("no logits", "complex logits", "logits = torch.complex(logits, logits)")


ANSWERS = (*_looks_ahead(), *_attends_ahead(), *_numbers())
