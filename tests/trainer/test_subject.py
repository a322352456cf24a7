"""The default subject: every profile's shape, the model's promises, the loader, and whole runs on the CPU."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from researcher.source.knobs import range_faults, read_knobs, set_knobs, set_ranges
from tests.fixtures.subject_in_parts import SOURCE, TINY_CONSTANTS, TINY_KNOBS, Bench
from trainer.jobs import PROFILES

STEP_LINE = re.compile(
    r"step \d{5} \(\d+\.\d%\) \| loss: (\d+\.\d{6}) \| lrm: \d\.\d\d \| dt: \d+ms \| tok/sec: [\d,]+"
    r" \| mfu: — \| epoch: \d+ \| remaining: \d+s"
)
SUMMARY = ["val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M"]
SUMMARY += ["num_steps", "num_params_M", "depth"]


@pytest.fixture
def bench(tmp_path: Path, data: Path) -> Bench:
    return Bench.render(tmp_path / "subject", data, TINY_KNOBS, TINY_CONSTANTS)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_whole_heads_and_whole_batches(
    name: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = PROFILES[name]
    train = Bench.render(tmp_path, data, profile.knobs, dict(profile.constants)).definitions(monkeypatch)

    with torch.device("meta"):
        model = train["GPT"](profile.vocab_size)
        logits = model(torch.zeros(2, profile.context, dtype=torch.int64))
    width = model.embedding.embedding_dim
    params = sum(weight.numel() for weight in model.parameters())
    print(f"{name}: depth {train['DEPTH']}, width {width}, {params / 1e6:.1f} M parameters")

    assert logits.shape == (2, profile.context, profile.vocab_size)
    assert width % train["HEAD_DIM"] == 0
    assert 0 <= width - train["DEPTH"] * train["ASPECT_RATIO"] < train["HEAD_DIM"]
    assert train["TOTAL_BATCH_SIZE"] % (train["DEVICE_BATCH_SIZE"] * train["MAX_SEQ_LEN"]) == 0
    assert len(model.windows) == train["DEPTH"]
    assert model.windows[-1] == "L"
    assert len(model.value_embeddings) == math.ceil(train["DEPTH"] / 2)


def test_every_knob_of_a_profile_stands_on_one_line_with_a_sound_range() -> None:
    source = (SOURCE / "train.py").read_text()
    knobs = read_knobs(source)

    assert range_faults(source) == {}
    for profile in PROFILES.values():
        for name, value in profile.knobs.items():
            found = knobs[name].range
            assert found is not None
            assert found.holds(value)
            assert re.search(rf"(?m)^{name} = \S+  # .*; (range|one of) ", source)
        rendered = set_ranges(set_knobs(source, profile.knobs), profile.ranges)
        assert range_faults(rendered) == {}
    assert knobs["ADAM_BETAS"].range is None
    assert {name: knobs[name].value for name in PROFILES["80gb"].knobs} == PROFILES["80gb"].knobs


def test_lines_and_names_are_unique_so_that_a_search_text_finds_one_place() -> None:
    source = (SOURCE / "train.py").read_text()
    tree = ast.parse(source)
    statements = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.Return, ast.Expr))]
    defined = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]

    repeated = {text for text, count in Counter(statements).items() if count > 1}

    assert repeated <= {"super().__init__()"}
    assert len(set(defined)) == len(defined)


@pytest.mark.slow
def test_training_by_hand_prints_steps_and_summary_and_learns(bench: Bench) -> None:
    done = bench.run("-X", "importtime")

    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in STEP_LINE.findall(done.stdout)]
    before, _, summary = done.stdout.partition("\n---\n")
    figures = dict(line.split(":") for line in summary.strip().splitlines())
    assert list(figures) == SUMMARY
    assert figures["peak_vram_mb"].strip() == figures["mfu_percent"].strip() == "—"
    assert int(figures["num_steps"]) == len(losses) == before.count("step 0")
    assert figures["depth"].strip() == "2"
    assert losses[-1] < losses[0] - 0.5
    assert 0 < float(figures["val_bpb"]) < math.log2(48)
    assert not re.search(r"\b(torch\._dynamo|torch\._inductor|sympy|tokenizers)$", done.stderr, re.MULTILINE)


def test_a_loss_that_is_not_a_number_ends_the_run_with_exit_code_1(bench: Bench) -> None:
    bench.edit("SOFTCAP = 15", 'SOFTCAP = float("nan")')

    done = bench.run()

    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "FAIL: loss is nan at step 0"


def test_a_batch_that_does_not_divide_is_refused_by_name(tmp_path: Path, data: Path) -> None:
    bench = Bench.render(tmp_path, data, TINY_KNOBS | {"DEVICE_BATCH_SIZE": 64}, TINY_CONSTANTS)

    done = bench.run()

    assert done.returncode == 1
    assert "TOTAL_BATCH_SIZE 1024 is not a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN = 2048" in done.stderr


def test_changing_the_future_changes_no_earlier_logits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scrambled(bench.definitions(monkeypatch))
    tokens = torch.randint(48, (2, 32))
    other = torch.cat([tokens[:, :20], torch.randint(48, (2, 12))], dim=1)

    ours, theirs = model(tokens), model(other)

    torch.testing.assert_close(ours[:, :20], theirs[:, :20])
    assert not torch.allclose(ours[:, 20:], theirs[:, 20:])


def test_a_row_does_not_depend_on_its_neighbours_or_on_earlier_calls(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scrambled(bench.definitions(monkeypatch))
    tokens = torch.randint(48, (4, 32))

    together = model(tokens)
    model(torch.randint(48, (4, 32)))
    alone = torch.cat([model(row[None]) for row in tokens])

    torch.testing.assert_close(together, alone)


def test_an_s_layer_sees_half_the_context_and_an_l_layer_all_of_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = {}
    tokens = torch.randint(48, (2, 32))
    for pattern in ("SSSL", "L"):
        bench = Bench.render(tmp_path / pattern, data, TINY_KNOBS | {"WINDOW_PATTERN": pattern}, TINY_CONSTANTS)
        train = bench.definitions(monkeypatch)
        logits[pattern] = scrambled(train)(tokens)
    q, k, v = torch.randn(3, 1, 2, 32, 16)
    far = v.index_fill(2, torch.tensor([3]), 9.0)
    window = train["make_window"]()

    torch.testing.assert_close(logits["SSSL"][:, :16], logits["L"][:, :16])
    assert not torch.allclose(logits["SSSL"][:, 16:], logits["L"][:, 16:])
    changed = (train["attend"](q, k, v, window) != train["attend"](q, k, far, window)).any(dim=-1).any(dim=1)
    assert changed[0].nonzero().flatten().tolist() == list(range(3, 19))
    changed = (train["attend"](q, k, v, None) != train["attend"](q, k, far, None)).any(dim=-1).any(dim=1)
    assert changed[0].nonzero().flatten().tolist() == list(range(3, 32))


def test_losses_come_from_the_logits_it_shows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    train = bench.definitions(monkeypatch)
    model = scrambled(train)
    x, y = torch.randint(48, (2, 3, 32))

    logits, each = model(x), model(x, y, reduction="none")

    expected = -logits.log_softmax(-1).gather(-1, y[..., None]).flatten()
    torch.testing.assert_close(each, expected)
    torch.testing.assert_close(model(x, y), expected.mean())
    assert logits.abs().max() <= train["SOFTCAP"]


def test_bits_per_byte_by_hand_agree_with_a_count_from_the_logits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(bench.data, bench.folder / "data"))
    rows = np.load(folder / "private" / "val.npy").astype(np.int64)
    rows[::2, 10] = 0  # a document ends in the middle of a row
    np.save(folder / "private" / "val.npy", rows.astype(np.uint16))
    bench = dataclasses.replace(bench, data=folder)
    model = scrambled(bench.definitions(monkeypatch))
    prepare = bench.prepare(monkeypatch)
    lengths = np.load(bench.data / "token_bytes.npy")[rows[:, 1:]]

    found = prepare.evaluate_bpb(model, prepare.Tokenizer.from_directory(), batch_size=7)

    with torch.no_grad():
        logits = model(torch.from_numpy(rows[:, :-1])).double().numpy()
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]
    assert found == pytest.approx(nats[lengths > 0].sum() / math.log(2) / lengths.sum(), rel=1e-6)


def test_eager_twins_equal_the_plain_formulas_and_their_gradients(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = bench.definitions(monkeypatch)
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)

    torch.testing.assert_close(train["norm"](x), functional.rms_norm(x, (8,)))
    torch.testing.assert_close(train["relu_squared"](x), functional.relu(x).square())
    assert torch.autograd.gradcheck(train["norm"], x)
    assert torch.autograd.gradcheck(train["relu_squared"], x)


def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = bench.definitions(monkeypatch)
    for shape in ((3, 8, 8), (2, 32, 8), (2, 8, 32)):
        left, sizes, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)

        even = train["orthogonalise"](left * (sizes / sizes.amax() + 0.05)[..., None, :] @ right)

        along = torch.diagonal(left.mT @ even @ right.mT, dim1=-2, dim2=-1)
        assert along.min() > 0.8
        assert along.max() < 1.2


def test_learning_rates_rise_hold_and_fall_with_the_budget(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = TINY_KNOBS | {"WARMUP_RATIO": 0.1, "WARMDOWN_RATIO": 0.4, "FINAL_LR_FRAC": 0.2}
    train = Bench.render(tmp_path, data, knobs, TINY_CONSTANTS).definitions(monkeypatch)

    shares = [0, 0.05, 0.1, 0.6, 0.8, 1]

    assert [train["lr_multiplier"](share) for share in shares] == pytest.approx([0, 0.5, 1, 1, 0.6, 0.2])


def test_every_row_comes_once_an_epoch_in_an_order_drawn_from_the_seed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.load(bench.data / "train.npy").astype(np.int64)
    seen = {}
    for seed in (1, 2):
        prepare = bench.prepare(monkeypatch, seed=seed)
        loader = prepare.make_dataloader(prepare.Tokenizer.from_directory(), 16, 32, "train")
        seen[seed] = list(itertools.islice(loader, 8))

    first, second = (torch.cat([x for x, _, epoch in seen[1] if epoch == wanted]).numpy() for wanted in (1, 2))
    x, y, _ = seen[1][0]
    assert x.shape == y.shape == (16, 32)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert sorted(map(tuple, first)) == sorted(map(tuple, second)) == sorted(map(tuple, rows[:, :-1]))
    assert not np.array_equal(first, second)
    assert not torch.equal(seen[1][0][0], seen[2][0][0])


def test_a_batch_larger_than_the_text_runs_on_into_the_next_epochs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = bench.prepare(monkeypatch)

    x, _, epoch = next(prepare.make_dataloader(prepare.Tokenizer.from_directory(), 130, 8, "train"))

    assert x.shape == (130, 8)
    assert epoch == 3


def test_a_longer_context_than_the_packed_rows_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = bench.prepare(monkeypatch)

    with pytest.raises(ValueError, match="T = 33 is longer than the packed rows of 32 tokens"):
        prepare.make_dataloader(prepare.Tokenizer.from_directory(), 4, 33, "train")
    with pytest.raises(ValueError, match="split 'heldout' is not known"):
        prepare.make_dataloader(prepare.Tokenizer.from_directory(), 4, 32, "heldout")


def test_missing_data_names_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.render(tmp_path / "subject", tmp_path / "nowhere", TINY_KNOBS, TINY_CONSTANTS)

    with pytest.raises(FileNotFoundError, match="run `overnight prepare` or set OVERNIGHT_DATA"):
        bench.prepare(monkeypatch).Tokenizer.from_directory()


def test_the_clock_by_hand_starts_with_the_first_batch_and_ends_at_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = bench.prepare(monkeypatch)
    seconds = iter([100.0, 100.5, 101.0, 250.0])
    monkeypatch.setattr(prepare._Clock, "now", lambda _: next(seconds))

    assert prepare.progress() == 0
    next(prepare.make_dataloader(prepare.Tokenizer.from_directory(), 4, 32, "train"))
    assert [prepare.progress() for _ in range(3)] == [0.25, 0.5, 1.0]


def scrambled(train: dict[str, Any]) -> Any:
    """A model whose every weight matters; it starts with zeros that would hide a leak."""
    torch.manual_seed(7)
    model = train["GPT"](48)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model.eval()
