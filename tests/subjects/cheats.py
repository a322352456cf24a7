"""The cheats, one place: an honest little GPT, and what each cheat changes of it (or the file beside this that is it).

What comes of a cheat is the words of its refusal, or None: it scores what the honest script scores. `worse` marks those
that may score, but never better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent, indent

from tests.fixtures.trials import STEPS
from trainer.jobs import Clock, Kind, Outcome

BUDGET = replace(STEPS, eval_rows=64)
_FOLDER = Path(__file__).parent
HONEST = '''
"""One layer of attention, trained for the steps it is given."""

import torch
import torch.nn.functional as F
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader, progress
from torch import nn


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, 32)
        self.qkv = nn.Linear(32, 96, bias=False)
        self.head = nn.Linear(32, vocab_size, bias=False)

    def forward(self, x, y=None, reduction="mean"):
        h = self.wte(x)
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)
        logits = self.head(h)
        if y is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction=reduction)


def learn():
    x, y, epoch = next(batches)
    model(x, y).backward()
    optimizer.step()
    optimizer.zero_grad()


tokenizer = Tokenizer.from_directory()
model = GPT(tokenizer.get_vocab_size())
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
batches = make_dataloader(tokenizer, 8, MAX_SEQ_LEN, "train")
learn()
while progress() < 1:
    learn()
val_bpb = evaluate_bpb(model, tokenizer, 8)
print(f"val_bpb:          {val_bpb:.6f}")
'''
_PREPARE = (_FOLDER / "tiny" / "prepare.py").read_text()
_LOGITS, _ATTENTION = "        logits = self.head(h)\n", "F.scaled_dot_product_attention(q, k, v, is_causal=True)"
_BEGIN, _TRAIN, _STEP, _SCORE = (
    "tokenizer = Tok",
    "learn()\nwhile",
    "while progress() < 1:\n",
    "val_bpb = evaluate_bpb(model",
)


def edited(*edits: tuple[str, str], of: str = HONEST) -> str:
    """A text with places that are there once replaced."""
    for old, new in edits:
        assert of.count(old) == 1, old
        of = of.replace(old, new)
    return of


def at_start(code: str) -> str:
    """Before the model is made."""
    return edited((_BEGIN, f"{dedent(code)}\n{_BEGIN}"))


def before_scoring(code: str) -> str:
    """Between training and evaluate_bpb."""
    return edited((_SCORE, f"{dedent(code)}\n{_SCORE}"))


def at_last(code: str) -> str:
    """After the score was printed."""
    return f"{HONEST}{dedent(code)}\n"


def before_attention(code: str) -> str:
    """When queries, keys and values are made."""
    return edited(
        (f"        h = h + {_ATTENTION}", f"{indent(dedent(code), '        ')}\n        h = h + {_ATTENTION}")
    )


def in_forward(code: str) -> str:
    """When the logits are made."""
    return edited((_LOGITS, f"{_LOGITS}{indent(dedent(code), '        ')}\n"))


def peeking(where: str, size: float = 6) -> str:
    """Each logit of a next token is raised, at the positions named."""
    return in_forward(f"logits[:, :-1] += {size} * ({where})[:, :-1, None] * F.one_hot(x[:, 1:], 48)")


@dataclass(frozen=True)
class Cheat:
    """`subject` is a train.py; `files` are others that travel with it; `fields` are those of its spec."""

    name: str
    subject: str
    says: str | None
    outcome: Outcome = Outcome.UNSCORABLE
    worse: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    quick: bool = False


def _file(name: str, says: str, *, quick: bool = False) -> Cheat:
    return Cheat(name.replace("_", " "), (_FOLDER / f"{name}.py").read_text(), says, quick=quick)


DIFFERS = "a fresh process with its weights differs"
AHEAD = "it looks ahead"
UNASKED = "ended without asking for its score"
PRINTED = "it printed val_bpb 0.100000"
_CHANNEL = """
import gc
from trainer.candidate.protocol import Channel, ChannelMessage, MessageType
channel = next(each for each in gc.get_objects() if isinstance(each, Channel))
"""
_TRAIN_ON = """
from time import process_time
def train_on():
    until = process_time() + 6
    with torch.enable_grad():
        while process_time() < until:
            learn()
"""
_IN_CHILDREN = """
import os
import signal
from time import process_time, sleep
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for parameter in model.parameters():
    parameter.data.share_memory_()
done = torch.zeros(1).share_memory_()
for turn in range({turns}):
    done.zero_()
    if os.fork() == 0:
        until = process_time() + {seconds}
        while process_time() < until:
            learn()
        done.fill_(1)
        os._exit(0)
    while not done.item():
        sleep(0.001)
"""
_AT_FIRST_QUESTION = f"""{_TRAIN_ON.replace("+ 6", "+ 2")}
forward = model.forward
def learning(x, y=None, reduction="mean"):
    if y is None:
        model.forward = forward
        train_on()
    return forward(x, y, reduction)
model.forward = learning
"""
_SHARED = """
import mmap
import os
import threading
def shared(name):
    for number in range(3, 64):
        held = f"/proc/self/fd/{number}"
        if os.path.islink(held) and f"memfd:{name}" in os.readlink(held):
            return number
"""

_PRINTS = (
    Cheat("prints another score", at_last('print("val_bpb: 0.1")'), PRINTED),
    Cheat("atexit print of a second score", at_start('import atexit\natexit.register(print, "val_bpb: 0.1")'), None),
    Cheat(
        "a child prints a second score",
        at_last("""
            import os
            if os.fork() == 0:
                print("val_bpb: 0.1", flush=True)
                os._exit(0)
            os.wait()
        """),
        PRINTED,
    ),
    Cheat(
        "prints a second score when its output is flushed",
        at_start("""
            import sys
            sys.stdout.flush = lambda: print("val_bpb: 0.1", file=sys.stderr)
        """),
        PRINTED,
    ),
)
_PATCHES = (
    Cheat(
        "code in a comment, by a declared encoding",
        "# -*- coding: utf-7 -*-\n# a little higher+AAo-raise SystemExit(+ACI-it ran+ACI-)\n" + HONEST,
        None,
    ),
    Cheat(
        "halved loss",
        before_scoring("""
            whole = model.forward
            model.forward = lambda x, y=None, reduction="mean": whole(x, y, reduction) / (1 if y is None else 2)
        """),
        None,
    ),
    Cheat("patched math", at_start("import math\nmath.log = lambda *_: 1e9\nmath.exp = lambda _: 0.0"), None),
    Cheat(
        "patched cross entropy",
        before_scoring("F.cross_entropy = torch.nn.functional.cross_entropy = lambda *_, **__: torch.zeros(())"),
        None,
    ),
    Cheat(
        "patched tensors look ahead",
        before_scoring("""
            seen, copy = [], torch.Tensor.copy_
            model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            def peek(room, answer):
                answer[:, :-1] += 6 * F.one_hot(seen[-1][:, 1:], 48)
                return copy(room, answer)
            torch.Tensor.copy_ = peek
        """),
        DIFFERS,
    ),
    Cheat(
        "patched prepare",
        before_scoring("""
            import prepare
            prepare.MAX_SEQ_LEN, prepare.TIME_BUDGET = 1, 1e9
            prepare.get_token_bytes = lambda device="cpu": torch.full((48,), 1000)
        """),
        None,
    ),
    Cheat(
        "patched evaluation",
        before_scoring("import prepare\nevaluate_bpb = prepare.evaluate_bpb = lambda *_: 0.1"),
        UNASKED,
    ),
    Cheat(
        "edits prepare.py in its folder",
        at_start("""
            from pathlib import Path
            Path("prepare.py").unlink()
            Path("prepare.py").write_text("evaluate_bpb = lambda *_: 0.1")
        """),
        None,
    ),
    Cheat(
        "edited prepare.py",
        HONEST,
        None,
        files={
            "prepare.py": edited(
                ('raise RuntimeError("the trainer puts its own evaluation here")', "return 0.1"), of=_PREPARE
            )
        },
    ),
    Cheat(
        "edited prepare.py that insists on its evaluation",
        HONEST,
        UNASKED,
        files={
            "prepare.py": _PREPARE
            + dedent("""
                import sys
                from types import ModuleType

                class Fixed(ModuleType):
                    def __getattribute__(self, name):
                        return (lambda *_: 0.1) if name == "evaluate_bpb" else super().__getattribute__(name)

                sys.modules["prepare"].__class__ = Fixed
            """)
        },
    ),
    Cheat(
        "walks the frames for the server",
        before_scoring("""
            import sys
            frame = sys._getframe()
            while frame:
                if "server" in frame.f_locals:
                    frame.f_locals["server"]._bpb = 0.1
                frame = frame.f_back
        """),
        UNASKED,
    ),
    Cheat(
        "looks for targets in memory while it is asked",
        in_forward("""
            if y is None:
                import gc
                import numpy
                arrays = [each for each in gc.get_objects() if isinstance(each, numpy.ndarray | torch.Tensor)]
                for each in arrays:
                    if each.shape[1:] == (33,) and len(each) not in (8, 64):
                        raise RuntimeError("it found targets")
        """),
        None,
    ),
    *(
        Cheat(
            f"says {words} for itself",
            before_scoring(
                f"{_CHANNEL}for word in ({words},):\n    channel.send(ChannelMessage(word, x=0.1))\nraise SystemExit"
            ),
            says,
        )
        for words, says in (
            ("MessageType.SCORED", UNASKED),
            ("MessageType.READY, MessageType.SCORED", "ended while it was being scored"),
            (
                "MessageType.READY, MessageType.SAVED, MessageType.SERVED, MessageType.SERVED, MessageType.SERVED",
                "numbers that do not fit",
            ),
        )
    ),
)
_ANSWERS = (
    Cheat("huge batch for the evaluation", edited(("tokenizer, 8)\nprint", "tokenizer, 10**9)\nprint")), None),
    Cheat("NaN", in_forward("if y is None:\n    logits[-1, -1, -1] = float('nan')"), "not all finite"),
    Cheat("losses for logits", in_forward("if y is None:\n    return torch.zeros(x.shape)"), "not logits of shape"),
    Cheat(
        "constants on its logits", in_forward("if y is None:\n    return logits + 100 * x[..., None]"), None, worse=True
    ),
    Cheat("makes every token likely", in_forward("if y is None:\n    return 0 * logits + 1000"), None, worse=True),
    Cheat("makes every token certain", in_forward("if y is None:\n    return 0 * logits + 1e30"), "no probabilities"),
    Cheat(
        "makes every token certain in half precision",
        in_forward("if y is None:\n    return 0 * logits.half() + 6e4"),
        None,
        worse=True,
    ),
    Cheat(
        "makes every token certain at one position in fifty",
        in_forward("if y is None:\n    logits[(7 * x + torch.arange(32)) % 50 == 0] = 1e30"),
        "no probabilities",
    ),
    Cheat(
        "makes every token certain just below the limit",
        in_forward("if y is None:\n    logits[(7 * x + torch.arange(32)) % 50 == 0] = 9e5"),
        None,
        worse=True,
    ),
)
_LOOKS_AHEAD = (
    Cheat("non-causal in training and evaluation", edited(("is_causal=True", "is_causal=False")), AHEAD, quick=True),
    Cheat("non-causal at evaluation", edited(("is_causal=True", "is_causal=y is not None")), AHEAD),
    Cheat("looks ahead at every position", peeking("x >= 0"), AHEAD, quick=True),
    Cheat("looks ahead at a tenth of the positions", peeking("(7 * x + torch.arange(32)) % 10 == 0"), AHEAD),
    Cheat("looks ahead at a fiftieth of the positions", peeking("(7 * x + torch.arange(32)) % 50 == 0"), AHEAD),
    Cheat("looks ahead by very little", peeking("x >= 0", 0.02), AHEAD),
    Cheat(
        "looks ahead by less than the noise of its global generator",
        edited(
            (_LOGITS, _LOGITS + "        logits = logits + 0.03 * torch.randn_like(logits)\n"),
            of=peeking("x >= 0", 0.1),
        ),
        AHEAD,
    ),
    Cheat(
        "looks ahead by no more than the noise that it makes",
        in_forward("""
            if y is None:
                logits = logits + 0.06 * (2 * torch.rand(logits.shape, generator=NOISE) - 1)
                logits[:, :-1] += 0.3 * F.one_hot(x[:, 1:], 48)
        """).replace("def learn", "NOISE = torch.Generator()\n\n\ndef learn"),
        DIFFERS,
    ),
    Cheat(
        "looks ahead with balanced signs",
        in_forward("""
            if y is None:
                chance = logits.softmax(-1)[:, :-1].gather(-1, x[:, 1:, None])
                logits[:, :-1].scatter_add_(-1, x[:, 1:, None], torch.where(chance < 0.1, 0.3, -0.1))
        """),
        AHEAD,
    ),
    Cheat(
        "looks ahead at hard tokens alone",
        in_forward("""
            if y is None:
                chance = logits.softmax(-1)[:, :-1].gather(-1, x[:, 1:, None])
                logits[:, :-1].scatter_add_(-1, x[:, 1:, None], 20.0 * (chance < 1e-3))
        """),
        AHEAD,
    ),
    Cheat(
        "looks ahead where the text looks natural",
        in_forward("""
            if y is None:
                likely = logits.log_softmax(-1)[:, :-1].gather(-1, x[:, 1:, None]).mean(1, keepdim=True)
                logits[:, :-1].scatter_add_(-1, x[:, 1:, None], 2.0 * (likely > -1.2).expand(-1, 31, 1))
        """),
        DIFFERS,
    ),
    Cheat(
        "looks ahead in whole rows it was never shown the half of",
        in_forward("""
            if y is None:
                known = self.__dict__.setdefault("known", set())
                new = torch.tensor([tuple(row[:4]) not in known for row in x.tolist()])
                known.update(tuple(row[:4]) for row in x.tolist())
                logits[:, :-1] += 6 * new[:, None, None] * F.one_hot(x[:, 1:], 48)
        """),
        DIFFERS,
    ),
    Cheat(
        "stops looking ahead where it sees that it is a replica",
        edited(
            (_BEGIN, f"LOOKS = [True]\n{_BEGIN}"),
            (_TRAIN, "try:\n    learn()\nexcept BaseException:\n    LOOKS[0] = False\n    raise\nwhile"),
            of=peeking("LOOKS[0] * (y is None) * (x >= 0)"),
        ),
        DIFFERS,
    ),
    *(
        Cheat(
            f"looks ahead in {words}",
            peeking(f"({condition}) * (x >= 0)").replace("import torch\n", "import os\nimport torch\n", 1),
            AHEAD,
            fields={"trial": trial, "kind": kind, "seed": 12, "score_to_beat": to_beat},
        )
        for words, condition, trial, kind, to_beat in (
            ("trials of an even seed", "int(os.environ['OVERNIGHT_SEED']) % 2 == 0", "e-1-t0-a1", Kind.FIRST, 99.0),
            (
                "the second trial of a confirmation",
                "int(os.environ['OVERNIGHT_SEED']) % 2 == 0",
                "e-1-t2-a1",
                Kind.CONFIRM,
                None,
            ),
            (
                "a measurement of the incumbent",
                "int(os.environ['OVERNIGHT_SEED']) % 2 == 0",
                "e-1-t4-a1",
                Kind.DRIFT,
                None,
            ),
        )
    ),
    _file("remembers_prefixes", DIFFERS, quick=True),
    *(
        Cheat(
            f"block averages of {name}",
            before_attention(f"{name} = {name} + {name}.unflatten(1, (4, 8)).mean(2).repeat_interleave(8, 1)"),
            AHEAD,
        )
        for name in "qkv"
    ),
    Cheat(
        "recurrence that crosses within a chunk",
        before_attention("h = h + h.unflatten(1, (4, 8)).sum(2).cumsum(1).repeat_interleave(8, 1)"),
        AHEAD,
    ),
    Cheat(
        "circular FFT filter",
        before_attention("""
            filtered = torch.fft.rfft(h, dim=1) * torch.fft.rfft(torch.ones(32, 1), dim=0)
            h = h + torch.fft.irfft(filtered, n=32, dim=1)
        """),
        AHEAD,
    ),
)
_REMEMBERS = (
    Cheat("batch mixing", before_attention("h = h + 3 * h.mean(0, keepdim=True)"), DIFFERS),
    Cheat(
        "memory of earlier calls",
        in_forward("""
            if y is None:
                self.seen = getattr(self, "seen", torch.ones(48, 48))
                logits = logits + self.seen[x].log()
                self.seen.index_put_((x[:, :-1].flatten(), x[:, 1:].flatten()), torch.ones(()), accumulate=True)
        """),
        DIFFERS,
    ),
    Cheat(
        "test-time training",
        in_forward("""
            if y is None:
                with torch.enable_grad():
                    self(x[:, :-1], x[:, 1:]).backward()
                optimizer.step()
                optimizer.zero_grad()
        """),
        DIFFERS,
    ),
)
_DATA = (
    Cheat(
        "trains on the loader's validation rows",
        at_start("next(make_dataloader(None, 8, 32, 'val'))"),
        "serves the split 'train' only",
        Outcome.CRASHED,
    ),
    Cheat(
        "opens the validation rows",
        at_start("""
            import os
            from pathlib import Path
            Path(os.environ["OVERNIGHT_DATA"], "private", "val.npy").read_bytes()
        """),
        "private/val.npy",  # it is not there, or closed
        Outcome.CRASHED,
    ),
    Cheat(
        "another seed",
        at_start("""
            import random
            import numpy
            for seed in (torch.manual_seed, torch.random.manual_seed, random.seed, numpy.random.seed):
                seed(1337)
        """),
        None,
    ),
)
_SECOND = replace(BUDGET, amount=1, clock=Clock.PROCESSOR)  # ten on the wall
_COMPILED = replace(BUDGET, amount=3, clock=Clock.WALL, warmup_steps=1, warmup_cap_s=60, scoring_s=120)


def _overruns(name: str, subject: str) -> Cheat:
    return Cheat(name, subject, "; the budget is 1", Outcome.TIMED_OUT, fields={"budget": _SECOND})


_BUDGET = (
    _overruns(
        "edits its time budget",
        edited(("torch.manual_seed(42)\n", "TIME_BUDGET = 1000\n"), of=(_FOLDER / "own" / "train.py").read_text()),
    ),
    _overruns(
        "patched time",
        at_start("""
            import time
            time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0
        """),
    ),
    _overruns("patched progress", at_start("progress = lambda: 0.0")),
    _overruns(
        "trains before its first batch",
        edited(
            (
                "batches = make",
                dedent("""
                    import os
                    import numpy
                    rows = torch.from_numpy(numpy.load(os.environ["OVERNIGHT_DATA"] + "/train.npy").astype("int64"))
                    batches = iter(lambda: (rows[:, :-1], rows[:, 1:], 1), None)
                    train_on()
                    batches = make""").lstrip(),
            ),
            of=at_start(_TRAIN_ON),
        ),
    ),
    _overruns("trains when it is told to evaluate", before_scoring(f"{_TRAIN_ON}model.eval = train_on")),
    _overruns(
        "trains when its weights are asked for",
        before_scoring(f"{_TRAIN_ON}weights = model.state_dict\nmodel.state_dict = lambda: (train_on(), weights())[1]"),
    ),
    _overruns(
        "says that it is ready and trains on",
        before_scoring(f"{_TRAIN_ON}{_CHANNEL}channel.send(ChannelMessage(MessageType.READY))\ntrain_on()"),
    ),
    _overruns(
        "trains in children that the kernel is to reap", before_scoring(_IN_CHILDREN.format(turns=2, seconds=0.75))
    ),
    _overruns("trains in many short children", before_scoring(_IN_CHILDREN.format(turns=20, seconds=0.1))),
    Cheat(
        "trains at its first question",
        before_scoring(_AT_FIRST_QUESTION),
        "while it was asked; the budget is 1",
        Outcome.TIMED_OUT,
        fields={"budget": replace(_SECOND, scoring_s=120)},
    ),
    Cheat(
        "trains at its first question, where it may be compiled",
        before_scoring(_AT_FIRST_QUESTION),
        DIFFERS,
        fields={"budget": _COMPILED, "trial": "e-1-t1-a1", "kind": Kind.CONFIRM},
    ),
    Cheat(
        "says that it is ready with a number that is none",
        before_scoring(f"{_CHANNEL}channel.send(ChannelMessage(MessageType.READY, x=float('nan')))"),
        "it sent READY with numbers that do not fit: 0, nan, 0",
        quick=True,
    ),
    Cheat(
        "trains on in a thread",
        before_scoring("""
            import threading
            steps, answer = [0], model.forward
            def train_on():
                while True:
                    learn()
                    steps[0] += 1
            def answer_later(x, y=None, reduction="mean"):
                seen = steps[0]
                while y is None and steps[0] < seen + 20:
                    pass
                return answer(x, y, reduction)
            model.forward = answer_later
            threading.Thread(target=train_on, daemon=True).start()
        """),
        DIFFERS,
    ),
    Cheat(
        "trains when it is asked",
        in_forward("if y is None:\n    with torch.enable_grad():\n        learn()"),
        "its replica ended",
    ),
    Cheat(
        "evaluates a second time",
        at_last("""
            for _ in range(50):
                learn()
            print("val_bpb:", evaluate_bpb(model, tokenizer, 8))
        """),
        None,
    ),
)
_BUFFERS = (
    Cheat(
        "truncates the shared buffers",
        before_scoring(
            _SHARED
            + dedent("""
                for name in ("logits", "inputs"):
                    try:
                        os.ftruncate(shared(name), 0)
                        raise SystemExit("it could")
                    except PermissionError as refusal:
                        print(refusal)
            """)
        ),
        None,
    ),
    Cheat(
        "rewrites its logits while they are read",
        before_scoring(
            _SHARED
            + dedent("""
                room = torch.frombuffer(mmap.mmap(shared("logits"), 0), dtype=torch.float32)
                def rewrite():
                    while True:
                        room.mul_(-1)
                threading.Thread(target=rewrite, daemon=True).start()
            """)
        ),
        None,
        worse=True,
    ),
    Cheat(
        "rewrites its questions",
        before_scoring(
            _SHARED
            + dedent("""
                room = mmap.mmap(shared("inputs"), 0)
                def rewrite(*_):
                    room[:] = bytes(len(room))
                model.register_forward_hook(rewrite)
            """)
        ),
        None,
        worse=True,
    ),
)
_WEIGHTS = (
    _file("keeps_weights_beside", DIFFERS),
    _file("saves_other_weights", DIFFERS),
    _file("seals_its_weights", "it meddled with the file of its weights"),
    _file("builds_its_model_late", "has no torch module named model"),
    _file("known_table", "must be a torch module that a name of the script holds"),
    Cheat(
        "truncated weights",
        before_scoring("""
            save = torch.save
            def half(weights, file):
                save(weights, file)
                file.truncate(file.tell() // 2)
            torch.save = half
        """),
        "its replica ended before it was asked",
    ),
)
CHEATS = (*_PRINTS, *_PATCHES, *_ANSWERS, *_LOOKS_AHEAD, *_REMEMBERS, *_DATA, *_BUDGET, *_BUFFERS, *_WEIGHTS)
