"""`overnight init` on repositories as other people have them: what is taken as it is, and what is said of the rest."""

from __future__ import annotations

import dataclasses
import io
import re
import runpy
import sys
from pathlib import Path

import pytest

from services.adopt.hub_cache import Cache
from services.adopt.stand_in import FUNCTIONS
from services.adopt.static_values import Surroundings
from services.adopt.subject_check import ShapeRefused, inspect
from services.machine.state import State
from tests.services.adopt.test_adopt import FILES, OWN, Own, around, home, needs_landlock
from trainer.jobs import DryRunSpec, DryRunVerdict, Outcome
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.dry_run import run_dry_run

__all__ = ["home"]

PORT = {name: (OWN / "port" / name).read_text() for name in ("train.py", "prepare.py")}
FROM_A_HUB = {"train.py": (OWN / "loads_from_a_hub.py").read_text(), "prepare.py": FILES["prepare.py"]}

# Where the import of a kernel stands in public repositories.
FLASH, HOPPER = "kernels-community/flash-attn3", "varunneal/flash-attention-3"
CHOICE = f"""\
from kernels import get_kernel
cap = torch.cuda.get_device_capability()
repo = "{HOPPER}" if cap == (9, 0) else "{FLASH}"
fa3 = get_kernel(repo).flash_attn_interface
"""
FOUNDING = f"import torch\n{CHOICE}"
FORK = "import torch\nif torch.cuda.is_available():\n" + "".join(f"    {line}\n" for line in CHOICE.splitlines())
LOAD = f"""\
def load():
    from kernels import get_kernel
    return get_kernel("{FLASH}", version=1)
"""
IN_A_FUNCTION = f"{LOAD}fa3 = load()\n"
GUARDED = f"{LOAD}try:\n    fa3 = load()\nexcept Exception:\n    fa3 = None\n"


def with_head(head: str) -> dict[str, str]:
    """Return the files of the known shape, with other lines before those of train.py."""
    return FILES | {"train.py": head + FILES["train.py"]}


def on_gpu(folder: Path, *capability: int) -> Surroundings:
    major, minor = capability
    return dataclasses.replace(around(folder), gpu=True, capability=(major, minor))


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed."""
    (tmp_path / "site" / "kernels").mkdir(parents=True)
    (tmp_path / "site" / "kernels" / "__init__.py").write_text("def get_kernel(repository, **options): ...\n")
    monkeypatch.syspath_prepend(tmp_path / "site")


def cached(home_folder: Path, name: str, build: str, *, kind: str = "kernels", text: str = "") -> Path:
    """Put a kernel into the cache of a hub, as its packages do; return the folder of the kernel."""
    repository = Cache.of({}, home_folder).folder / f"{kind}--{name.replace('/', '--')}"
    place = repository / "snapshots" / ("0" * 40) / "build" / build
    for folder in (place, repository / "refs"):
        folder.mkdir(parents=True)
    (place / "kernel.py").write_text(text)
    (repository / "refs" / "main").write_text("0" * 40)
    return repository


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("head", "capability", "lacks"),
    [
        (FOUNDING, (9, 0), HOPPER),
        (FOUNDING, (8, 9), FLASH),
        (FORK, (9, 0), HOPPER),
        (FORK, (12, 0), FLASH),
        (FOUNDING.replace("cap == (9, 0)", "cap[0] >= 9"), (10, 0), HOPPER),
        (IN_A_FUNCTION, (8, 0), FLASH),
    ],
)
def test_kernel_that_the_cache_lacks_is_refused_with_the_command_that_fills_it_and_opened_where_it_is(
    tmp_path: Path, head: str, capability: tuple[int, int], lacks: str
) -> None:
    machine = on_gpu(tmp_path, *capability)
    with pytest.raises(ShapeRefused) as refusal:
        inspect(with_head(head), machine)

    given = ", version=1" if head == IN_A_FUNCTION else ""
    command = f'{sys.executable} -c "from kernels import get_kernel; get_kernel({lacks!r}{given})"'
    assert str(refusal.value).endswith(f"lacks, and a trial has no network; load it once: {command}")

    folder = cached(machine.home, lacks, "torch213-cxx11-cu130-x86_64-linux")
    shape = inspect(with_head(head), machine)

    assert shape.hub.readable == (folder,)
    assert shape.hub.environment["HF_HUB_OFFLINE"] == "1"
    assert f"loads {lacks} from the cache {folder.parent}: trials may read it" in "\n".join(shape.found)


@pytest.mark.usefixtures("kernels")
def test_script_that_goes_on_without_its_kernel_is_taken_and_it_is_said_how_to_have_it(tmp_path: Path) -> None:
    told = "\n".join(inspect(with_head(GUARDED), on_gpu(tmp_path, 9, 0)).found)

    assert f"may load {FLASH}, which the cache " in told
    assert f"get_kernel({FLASH!r}, version=1)" in told


@pytest.mark.usefixtures("kernels")
def test_kernel_whose_name_the_text_does_not_tell_opens_all_kernels_and_no_data_set(tmp_path: Path) -> None:
    machine = on_gpu(tmp_path, 8, 0)
    kernel = cached(machine.home, FLASH, "torch-cuda")
    cached(machine.home, "example/validation", "text", kind="datasets")
    head = "import sys\nfrom kernels import get_kernel\nfa3 = get_kernel(sys.argv[1])\n"

    shape = inspect(with_head(head), machine)

    assert shape.hub.readable == (kernel,)
    assert "could not tell what line 3 loads from the hub" in "\n".join(shape.found)


@pytest.mark.usefixtures("kernels")
def test_on_a_machine_without_a_gpu_the_first_reason_says_what_needs_one(tmp_path: Path) -> None:
    head = f"import flash_attn\nimport sklearn_of_nobody\n{FOUNDING}"
    with pytest.raises(ShapeRefused) as refusal:
        inspect(with_head(head), around(tmp_path))

    reasons = str(refusal.value)
    assert reasons.startswith("3 reasons: (1) train.py needs a GPU, and trials here have none, for the import of flash")
    assert "torch.cuda.get_device_capability() (line 5)" in reasons
    assert "the kernel that get_kernel(repo) of the package kernels loads (line 7)" in reasons
    assert reasons.index("needs a GPU") < reasons.index("pip install flash-attn") < reasons.index("sklearn_of_nobody")
    inspect(with_head(FORK), around(tmp_path))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("build", "taken"), [("torch-cpu", True), ("torch213-cxx11-cu130-x86_64-linux", False)])
def test_cached_kernel_says_by_its_builds_whether_it_needs_a_gpu(tmp_path: Path, build: str, *, taken: bool) -> None:
    cached(around(tmp_path).home, FLASH, build)

    if taken:
        inspect(with_head(IN_A_FUNCTION), around(tmp_path))
    else:
        with pytest.raises(ShapeRefused, match="needs a GPU"):
            inspect(with_head(IN_A_FUNCTION), around(tmp_path))


NO_GPU = "import torch\nif not torch.cuda.is_available():\n    raise SystemExit('needs a GPU')\n"


@pytest.mark.parametrize(
    ("head", "need"),
    [
        (NO_GPU, r"its own check \(line 3\)"),
        ("import torch\nname = torch.cuda.get_device_name(0)\n", r"torch\.cuda\.get_device_name\(0\) \(line 2\)"),
        (
            "def main():\n    import flash_attn\nif __name__ == '__main__':\n    main()\n",
            r"the import of flash_attn \(line 2\)",
        ),
    ],
)
def test_part_that_surely_fails_without_a_gpu_is_named(tmp_path: Path, head: str, need: str) -> None:
    with pytest.raises(ShapeRefused, match=f"needs a GPU, and trials here have none, for {need}"):
        inspect(with_head(head), around(tmp_path))


@pytest.mark.parametrize(
    "head",
    [
        "import torch\nx = torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'cpu'\n",
        "import torch\nif torch.cuda.is_available():\n    import flash_attn\nelse:\n    flash_attn = None\n",
        "import torch\nhas = torch.cuda.is_available()\nif has:\n    import flash_attn\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flash_attn\n",
        "def never_called():\n    import flash_attn\n",
        "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None\n",
    ],
)
def test_part_that_may_not_run_without_a_gpu_refuses_nothing(tmp_path: Path, head: str) -> None:
    inspect(with_head(head), around(tmp_path))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "x"}, "x/huggingface/hub"),
        ({"HF_HOME": "hf", "XDG_CACHE_HOME": "x"}, "hf/hub"),
        ({"HF_HUB_CACHE": "hub", "HF_HOME": "hf"}, "hub"),
        ({"KERNELS_CACHE": "own", "HF_HUB_CACHE": "hub"}, "own"),
    ],
)
def test_cache_is_where_the_packages_of_the_hub_look_for_it(
    tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    environment = {name: str(tmp_path / value) for name, value in variables.items()}

    assert Cache.of(environment, tmp_path / "home").folder == tmp_path / expected


@pytest.mark.parametrize(
    ("module", "package"),
    [("cv2", "opencv-python"), ("skimage", "scikit-image"), ("hydra", "hydra-core"), ("nowhere", "nowhere")],
)
def test_missing_import_is_told_with_the_name_of_its_package(tmp_path: Path, module: str, package: str) -> None:
    with pytest.raises(ShapeRefused, match=rf"pip install {package}$"):
        inspect(with_head(f"from {module}.part import x\n"), around(tmp_path))


def test_import_that_the_script_may_do_without_is_told_and_not_refused(tmp_path: Path) -> None:
    head = "try:\n    import nowhere_a\nexcept ImportError:\n    pass\nif [1][0]:\n    import nowhere_b\n"

    told = "\n".join(inspect(with_head(head), around(tmp_path)).found)

    assert "may import nowhere_a, nowhere_b, not installed here" in told


def test_all_reasons_are_told_at_once_and_first_what_no_edit_removes(tmp_path: Path) -> None:
    train = FILES["train.py"].replace("import torch\n", "import mlx.core as torch\n")
    files = {
        "train.py": train.replace("from torch import nn\n", "").replace("import torch.nn.functional", "import math"),
        "prepare.py": FILES["prepare.py"].replace("def get_token_bytes", "def lengths"),
    }
    with pytest.raises(ShapeRefused) as refusal:
        inspect(files, around(tmp_path))

    said = str(refusal.value)
    assert said.startswith("2 reasons: (1) train.py trains with MLX, and a trial measures models of torch only;")
    assert "(2) prepare.py defines no get_token_bytes" in said


def test_parts_of_a_port_are_told(tmp_path: Path) -> None:
    machine = dataclasses.replace(around(tmp_path), environment={"PORT_SECONDS": "3", "PORT_API_KEY": "secret"})
    train = PORT["train.py"].replace("BATCH_SIZE = 8", "import os\nBATCH_SIZE = int(os.environ.get('BATCH', '8'))")

    prepare = PORT["prepare.py"] + "\nACCOUNT = os.environ.get('PORT_API_KEY')\n"

    shape = inspect(PORT | {"train.py": train, "prepare.py": prepare}, machine)

    assert shape.constants["TIME_BUDGET"] == 3
    assert shape.variables == {"PORT_SECONDS": "3"}
    assert shape.helpers.names == {"DEVICE", "get_device", "parameters_m"}
    told = "\n".join(shape.found)
    assert re.search(r"the model is `run\.network` \(line \d+\), not compiled", told)
    assert "reads BATCH from the environment; trials use its defaults" in told


@pytest.mark.parametrize(
    "helper",
    [
        "def get_device():\n    return open('/etc/hostname').read()\n",
        "def get_device():\n    return Tokenizer.from_directory().device\n",
        "def get_device():\n    return where_it_is()\n",
        "def get_device():\n    return os.environ['DEVICE']\n",
    ],
)
def test_function_that_uses_more_than_torch_has_no_stand_in(tmp_path: Path, helper: str) -> None:
    before, _, after = PORT["prepare.py"].partition("def get_device")
    prepare = f"{before}{helper}\n\nDEVICE = {after.partition('DEVICE = ')[2]}"

    with pytest.raises(ShapeRefused, match=r"takes get_device from prepare\.py, which a trial has no stand-in for"):
        inspect(PORT | {"prepare.py": prepare}, around(tmp_path))


def test_score_that_is_asked_in_a_loop_and_a_model_without_a_name_are_told(tmp_path: Path) -> None:
    scored = "val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)"
    train = FILES["train.py"].replace(scored, f"for _ in range(2):\n    {scored.replace('model,', 'nn.Identity(),')}")

    told = "\n".join(inspect(FILES | {"train.py": train}, around(tmp_path)).found)

    assert "could not tell which name holds the model that line 62 scores" in told
    assert "may call evaluate_bpb more than once (line 62)" in told


def repository(folder: Path, files: dict[str, str]) -> Own:
    """Return a repository of these files that is not adopted yet."""
    (folder / "repository").mkdir()
    own = Own(folder, State(folder / "state"), io.StringIO(), [], dict(files))
    own.commit(**{name.removesuffix(".py"): text for name, text in files.items()})
    return own


@pytest.mark.slow
@needs_landlock
def test_dry_run_of_a_script_whose_prepare_is_another_one_is_unknown_and_says_so(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    own = repository(tmp_path, FILES)
    assert own.init()

    assert dry_run(own, tmp_path, FILES["train.py"]) is DryRunVerdict.PASSES
    own.files["prepare.py"] += "\n"
    assert dry_run(own, tmp_path, FILES["train.py"]) is DryRunVerdict.UNKNOWN


def dry_run(own: Own, folder: Path, train: str) -> DryRunVerdict:
    config = WorkerConfig(own.state.data, None, folder / "dry-runs")
    config.work.mkdir(exist_ok=True)
    answer = run_dry_run(DryRunSpec("cpu", own.files | {"train.py": train}), config, lambda: False)
    assert answer.reason
    return answer.verdict


@pytest.mark.slow
@needs_landlock
def test_port_with_functions_devices_and_a_cache_of_its_own_is_measured_unedited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PORT_CACHE", str(tmp_path / "elsewhere" / "port"))
    runpy.run_path(str(OWN / "port" / "prepare.py"), run_name="__main__")
    own = repository(tmp_path, PORT)

    assert own.init()
    result = own.trial(tmp_path)

    assert str(tmp_path / "elsewhere" / "port") in own.asked[0]
    assert result.outcome is Outcome.OK, result.reason
    assert result.probes["change"] < 1e-3, "a replica found the model in the function"
    assert result.params_m is not None
    assert "a trial scores 64 rows, as EVAL_TOKENS of prepare.py says" in own.said.getvalue()
    choices = own.state.choices()
    assert choices is not None
    assert choices.trial_profile().budget.eval_rows == 64
    assert dry_run(own, tmp_path, PORT["train.py"]) is DryRunVerdict.PASSES
    assert dry_run(own, tmp_path, PORT["train.py"].replace("nn.Linear(32,", "nn.Linear(33,")) is DryRunVerdict.FAILS


@pytest.mark.slow
@needs_landlock
def test_code_from_a_hub_is_read_from_its_cache_in_trials_and_dry_runs(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    softcap = "import torch\ndef softcap(logits):\n    return 15 * torch.tanh(logits / 15)\n"
    own = repository(tmp_path, FROM_A_HUB)
    with pytest.raises(ShapeRefused, match=r"snapshot_download\('example/plain'\)"):
        own.init()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    cached(tmp_path, "example/plain", "torch-universal", kind="models", text=softcap)
    (tmp_path / ".cache" / "huggingface").rename(tmp_path / "hf")

    assert own.init()
    result = own.trial(tmp_path, budget=3.0)

    assert result.outcome is Outcome.OK, result.reason
    assert dry_run(own, tmp_path, FROM_A_HUB["train.py"]) is DryRunVerdict.PASSES


def test_the_names_of_the_contract_are_those_that_a_stand_in_has() -> None:
    ours = (OWN.parents[2] / "trainer" / "subject" / "prepare.py").read_text()

    assert [name for name in FUNCTIONS if f" {name}(" not in ours and f" {name}:" not in ours] == []
