"""What a dishonest candidate gains by training where its clock does not count."""

from __future__ import annotations

from collections.abc import Iterator

from tests.attack.part import Part, Role, gain

_TRAIN_ON = """
def train_on(seconds):
    until = time.thread_time() + seconds
    with torch.enable_grad():
        while time.thread_time() < until:
            learn()
"""
_UNMARKED = """
def unmarked():
    rows = torch.from_numpy(numpy.load(os.environ["OVERNIGHT_DATA"] + "/train.npy").astype("int64"))
    while True:
        for at in range(0, 64, 8):
            yield rows[at : at + 8, :-1], rows[at : at + 8, 1:], 1
"""
_IN_CHILDREN = """
import signal
for weight in model.parameters():
    weight.data.share_memory_()
done = torch.zeros(1).share_memory_()
{before}
for turn in range({children}):
    done.zero_()
    if os.fork() == 0:
        {inside}
        train_on({seconds} / {children})
        done.fill_(1)
        os._exit(0)
    while not done.item():
        time.sleep(0.01)
"""


def _trains(kind: str, seconds: float, **fields: object) -> Part:
    start = fields.pop("start", "")
    whole = f"{_TRAIN_ON}{start}"
    return gain("trains " + kind, f"trains {seconds:g} s {kind}", "", start=whole, clocked=True, **fields)


def _trains_on() -> Iterator[Part]:
    for seconds in (2.5, 6.0, 30.0):
        early = (
            "learn()\nwhile",
            f"whole, batches = batches, unmarked()\ntrain_on({seconds})\nbatches = whole\nlearn()\nwhile",
        )
        yield _trains("before the first batch", seconds, start=_UNMARKED, edits=(early,))
        yield _trains("when its time is over", seconds, trained=f"train_on({seconds})")
        yield _trains("when told to evaluate", seconds, trained=f"model.eval = lambda: train_on({seconds})")
        yield _trains(
            "when its weights are asked for",
            seconds,
            trained=f"weights = model.state_dict\nmodel.state_dict = lambda: (train_on({seconds}), weights())[1]",
        )
        yield Part(
            Role.GAIN,
            "trains at the first question",
            f"trains {seconds:g} s at the first question",
            start=_TRAIN_ON,
            act=f"if CALLS[0] == 1 and TRAINED[0]:\n    train_on({seconds})\n    logits = model(x, None).detach()",
            clocked=True,
        )
        yield _trains(
            "in a thread of its own",
            seconds,
            trained=f"import threading\nside = threading.Thread(target=train_on, args=({seconds},))\n"
            "side.start()\nside.join()",
        )
        for kind, before, inside in (
            ("in children that it waits for", "", ""),
            ("in children that the kernel reaps", "signal.signal(signal.SIGCHLD, signal.SIG_IGN)", ""),
            ("in children of children", "", "os.setsid()\n        if os.fork():\n            os._exit(0)"),
        ):
            code = _IN_CHILDREN.format(before=before, inside=inside or "pass", children=3, seconds=seconds)
            yield _trains(kind, seconds, trained=code)


TRAININGS = tuple(_trains_on())
