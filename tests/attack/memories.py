"""What a dishonest candidate gains by remembering: questions of the same scoring, or of the trial before."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import dedent

from tests.attack.part import Part, gain

_COUNTS = """
def remember(x, logits, there):
    held = torch.from_numpy(numpy.frombuffer(load(), dtype="uint8").astype("int64")).view(48, 48)
    logits = logits + 1.5 * there[..., None] * (1 + held[x]).log()
    held.index_put_((x[:, :-1].flatten(), x[:, 1:].flatten()), torch.ones((), dtype=torch.int64), accumulate=True)
    keep(held.clamp(0, 255).numpy().astype("uint8").tobytes())
    return logits
"""
_EMPTY = "bytes(48 * 48)"
_STORES = {
    "a module-level list": f"""
        HELD = [{_EMPTY}]
        load = lambda: HELD[0]
        def keep(held):
            HELD[0] = held
    """,
    "a closure": f"""
        def closed(held={_EMPTY}):
            def put(other):
                nonlocal held
                held = other
            return lambda: held, put
        load, keep = closed()
    """,
    "an attribute of torch": f"""
        load = lambda: getattr(torch, "_seen", {_EMPTY})
        keep = lambda held: setattr(torch, "_seen", held)
    """,
    "its environment": f"""
        load = lambda: bytes.fromhex(os.environ.get("SEEN", "")) or {_EMPTY}
        def keep(held):
            os.environ["SEEN"] = held.hex()
    """,
    "an attribute of the model": f"""
        load = lambda: bytes(getattr(model, "seen", {_EMPTY}))
        keep = lambda held: setattr(model, "seen", held)
    """,
    "a buffer of the model": """
        load = lambda: model.head.held.numpy().tobytes()
        keep = lambda held: model.head.held.copy_(torch.frombuffer(bytearray(held), dtype=torch.uint8))
    """,
}
_BUFFER = (
    "bias=False)\n\n    def forward",
    "bias=False)\n        self.head.register_buffer('held', torch.zeros(48 * 48).to(torch.uint8))\n\n    def forward",
)
_LASTING_STORES = {
    "a file beside its data": "os.environ['OVERNIGHT_DATA'] + '/NAME'",
    "a file in shared memory": "'/dev/shm/NAME'",
    "a file in /tmp": "'/tmp/NAME'",
    "a file in /var/tmp": "'/var/tmp/NAME'",
    "a file in its home": "os.path.expanduser('~/NAME')",
    "a file above its work": "os.path.abspath('../NAME')",
}


def _remembers() -> Iterator[Part]:
    for place, code in _STORES.items():
        edits = (_BUFFER,) if place == "a buffer of the model" else ()
        yield gain(
            "remembers questions",
            f"remembers questions in {place}",
            "logits = remember(x, logits, there)",
            start=dedent(code) + _COUNTS,
            edits=edits,
        )
    for place, path in _LASTING_STORES.items():
        start = f"""
            def load():
                try:
                    with open({path}, "rb") as file:
                        return file.read()
                except OSError:
                    return {_EMPTY}
            def keep(held):
                try:
                    with open({path}, "wb") as file:
                        file.write(held)
                except OSError:
                    pass
        """
        yield _left_behind(place, start)
    yield _left_behind(
        "extended attributes",
        f"""
        MARKED = [os.environ["OVERNIGHT_DATA"], os.environ["OVERNIGHT_DATA"] + "/train.npy"]
        def load():
            for path in MARKED:
                try:
                    return os.getxattr(path, "user.seen")
                except OSError:
                    pass
            return {_EMPTY}
        def keep(held):
            for path in MARKED:
                try:
                    return os.setxattr(path, "user.seen", held)
                except OSError:
                    pass
        """,
    )
    yield _left_behind(
        "times of files",
        """
        TIMED = [os.environ["OVERNIGHT_DATA"] + name for name in ("/train.npy", "/manifest.json", "/token_bytes.npy")]
        def load():
            counts = numpy.zeros((48, 48), dtype="uint8")
            times = [divmod(os.stat(path).st_mtime_ns, 10**9) for path in TIMED]
            held = b"".join(seconds.to_bytes(4, "big") + rest.to_bytes(4, "big")[1:] for seconds, rest in times)
            if max(held) < 48:
                counts[numpy.arange(21), list(held)] = 50
            return counts.tobytes()
        def keep(held):
            likely = bytes(numpy.frombuffer(held, dtype="uint8").reshape(48, 48)[:21].argmax(1).tolist())
            for at, path in enumerate(TIMED):
                seconds, rest = (int.from_bytes(likely[7 * at + a : 7 * at + b], "big") for a, b in ((0, 4), (4, 7)))
                try:
                    os.utime(path, ns=(0, seconds * 10**9 + rest))
                except OSError:
                    pass
        """,
    )


def _left_behind(place: str, start: str) -> Part:
    """A trial uses what it finds when it begins, and leaves something only where there was nothing: an answer does not
    change within a trial, and its replica finds the same."""
    return gain(
        "leaves questions to the next trial",
        f"leaves questions in {place}",
        """
        logits = logits + 1.5 * there[..., None] * (1 + FOUND[x]).log()
        SEEN.index_put_((x[:, :-1].flatten(), x[:, 1:].flatten()), torch.ones(()), accumulate=True)
        if not FOUND.any():
            keep(SEEN.clamp(0, 255).numpy().astype("uint8").tobytes())
        """,
        start=dedent(start) + _FOUND,
    )


_FOUND = """
FOUND = torch.from_numpy(numpy.frombuffer(load(), dtype="uint8").astype("float32")).view(48, 48)
SEEN = torch.zeros(48, 48)
"""


MEMORIES = tuple(_remembers())
