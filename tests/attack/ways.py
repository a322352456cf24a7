"""When a dishonest candidate does it, what covers it, and what its process says to the trainer besides."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import dedent

from tests.attack.part import KNOWN, Part, Role


def _gates() -> Iterator[Part]:
    def gate(kind: str, name: str, line: str, start: str = "") -> Part:
        return Part(Role.GATE, kind, name, gate=dedent(line), start=dedent(start))

    for k in (3, 10, 50, 200):
        yield gate(
            "at one position in k", f"at one position in {k}", f"there &= (7 * x + torch.arange(x.shape[1])) % {k} == 0"
        )
        yield gate("by chance", f"by chance at one position in {k}", f"there &= torch.rand(x.shape) < 1 / {k}")
    for p in (0.02, 0.3):
        yield gate(
            "at hard tokens",
            f"where the token has less than {p}",
            f"there &= (logits.softmax(-1) * ahead).sum(-1) < {p}",
        )
    yield gate(
        "in natural rows",
        "in rows all of whose pairs are known",
        "there &= KNOWN[x[:, :-1], x[:, 1:]].all(1, keepdim=True)",
        KNOWN,
    )
    yield gate(
        "where the text is natural",
        "where the next pair is known",
        "there[:, :-1] &= KNOWN[x[:, :-1], x[:, 1:]]",
        KNOWN,
    )
    for rest in (0, 1):
        yield gate(
            "by the seed", f"by seeds that leave {rest}", f"there &= int(os.environ['OVERNIGHT_SEED']) % 2 == {rest}"
        )
    yield gate(
        "the first time a row is seen",
        "the first time a row is seen",
        """
        keys = [bytes(row) for row in x.to(torch.uint8)]
        there &= torch.tensor([key not in ROWS for key in keys])[:, None]
        ROWS.update(keys)
        """,
        "ROWS = set()",
    )
    yield gate(
        "the first time a row's beginning is seen",
        "the first time a row's beginning is seen",
        """
        keys = [bytes(row) for row in x[:, :3].to(torch.uint8)]
        there &= torch.tensor([key not in BEGINNINGS for key in keys])[:, None]
        BEGINNINGS.update(keys)
        """,
        "BEGINNINGS = set()",
    )
    yield gate(
        "in batches without twins",
        "in batches without twins",
        "there &= len({bytes(r) for r in x[:, :6].to(torch.uint8)}) == len(x)",
    )
    for calls in (1, 2, 8):
        yield gate("in its first calls", f"in its first {calls} calls", f"there &= CALLS[0] <= {calls}")
        yield gate("after its first calls", f"after its first {calls} calls", f"there &= CALLS[0] > {calls}")
    yield gate("not in a replica", "where it was trained itself", "there &= TRAINED[0]")
    yield gate("in some rows", "in rows whose sum is even", "there &= x.sum(1, keepdim=True) % 2 == 0")
    yield gate("late in a row", "in the last half of a row", "there &= torch.arange(x.shape[1]) >= x.shape[1] // 2")
    yield gate("early in a row", "in the first quarter of a row", "there &= torch.arange(x.shape[1]) < x.shape[1] // 4")


def _covers() -> Iterator[Part]:
    for size in (0.01, 0.05, 0.12, 0.4):
        yield Part(
            Role.COVER,
            "normal noise",
            f"normal noise of {size}",
            cover=f"logits = logits + {size} * torch.randn_like(logits)",
        )
        yield Part(
            Role.COVER,
            "flat noise",
            f"flat noise of {size}",
            cover=f"logits = logits + {size} * (2 * torch.rand_like(logits) - 1)",
        )
    yield Part(
        Role.COVER,
        "noise at few positions",
        "noise of 2 at one position in 100",
        cover="logits = logits + 2 * torch.randn_like(logits) * (torch.rand(x.shape) < 0.01)[..., None]",
    )
    yield Part(
        Role.COVER, "shifted rows", "rows shifted at random", cover="logits = logits + torch.randn(x.shape)[..., None]"
    )
    yield Part(
        Role.COVER,
        "noise of its own seed",
        "noise of a seed of its own",
        cover="waves = torch.sin(x[..., None] * 12.9898 + torch.arange(48) * 78.233)\n"
        "logits = logits + 0.1 * (torch.frac(waves * 43758.5453) - 0.5)",
    )
    yield Part(Role.COVER, "rounded", "rounded to sixteenths", cover="logits = (16 * logits).round() / 16")


_CHANNEL = """
import gc
from trainer.candidate.protocol import Channel, ChannelMessage, MessageType
channel = next(each for each in gc.get_objects() if isinstance(each, Channel))
"""


def _speeches() -> Iterator[Part]:
    for kind, line in (
        ("READY with NaN", "channel.send(ChannelMessage(MessageType.READY, x=float('nan')))"),
        ("READY with infinity", "channel.send(ChannelMessage(MessageType.READY, x=float('inf')))"),
        ("READY with 1e300", "channel.send(ChannelMessage(MessageType.READY, number=2**31, x=1e300))"),
        (
            "PROGRESS with NaN",
            "channel.send(ChannelMessage(MessageType.PROGRESS, number=7, x=float('nan'), y=float('-inf')))",
        ),
        (
            "IMPORTED again",
            "channel.send(ChannelMessage(MessageType.IMPORTED, number=2**32 - 1, x=float('nan'), y=-1.0, text='|'))",
        ),
        ("SERVED before a question", "channel.send(ChannelMessage(MessageType.SERVED, number=1, x=float('nan')))"),
        ("SAVED before a question", "channel.send(ChannelMessage(MessageType.SAVED, text='model|float64'))"),
        ("SCORED to the trainer", "channel.send(ChannelMessage(MessageType.SCORED, x=0.1))"),
        (
            "a flood of PROGRESS",
            "for at in range(5000):\n    channel.send(ChannelMessage(MessageType.PROGRESS, number=at, x=0.5))",
        ),
        ("half a message", "channel.end.send(b'half')"),
        ("a message too long", "channel.end.send(bytes(4096))"),
    ):
        yield Part(Role.SPEECH, kind, f"says {kind}", trained=_CHANNEL + line)


GATES, COVERS, SPEECHES = tuple(_gates()), tuple(_covers()), tuple(_speeches())
