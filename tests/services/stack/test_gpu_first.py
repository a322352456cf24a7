"""gpu-check before the first start of a stack, on an engine that a test invents: here no container gets a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError

from services.machine.compose import ComposeProject, StackError
from services.stack.gpu_first import check_gpu_first
from tests import ROOT

PROJECT = ComposeProject(ROOT, (), {})


@dataclass
class InventedContainer:
    """A container that prints two lines and ends with `code`, or does not start."""

    code: int = 0
    fault: str | None = None
    removed: bool = False

    def start(self) -> None:
        if self.fault is not None:
            raise APIError("500", explanation=self.fault)

    def logs(self, *, stream: bool, follow: bool) -> Iterator[bytes]:
        assert stream
        assert follow
        yield b"measuring: kernel\n"
        yield b"A trial will take about 8:20\n"

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.code}

    def remove(self, *, v: bool, force: bool) -> None:
        self.removed = v and force


@dataclass
class InventedStack:
    """A stack on an engine that hands out one container. `created` are the arguments of its creation."""

    container: InventedContainer
    there: list[str] = field(default_factory=list)
    built: int = 0
    created: dict[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> Any:
        return SimpleNamespace(containers=SimpleNamespace(create=self._create))

    def _create(self, image: str, command: list[str], **how: Any) -> InventedContainer:
        self.created = {"image": image, "command": command, **how}
        return self.container

    def volumes(self) -> list[str]:
        return self.there

    def build(self, _: ComposeProject, service: str) -> int:
        assert service == "trainer"
        return self.built


@pytest.fixture(autouse=True)
def image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ComposeProject, "image", lambda _, service: f"overnight/{service}:0.1.0")


def check(stack: InventedStack, uuid: str = "GPU-1", profile: str | None = None) -> list[str]:
    lines: list[str] = []
    check_gpu_first(stack, PROJECT, uuid, profile, lambda line: lines.append(str(line)))  # type: ignore[arg-type]
    return lines


def test_first_start_measures_on_the_named_gpu_without_network_or_volumes_and_shows_the_report() -> None:
    stack = InventedStack(InventedContainer())

    lines = check(stack, profile="24gb")

    assert "scripts/up --skip-gpu-check" in lines[0]
    assert lines[1:] == ["measuring: kernel", "A trial will take about 8:20"]
    assert stack.created["image"] == "overnight/trainer:0.1.0"
    assert stack.created["command"][-2:] == ["--profile", "24gb"]
    assert stack.created["network_mode"] == "none"
    assert stack.created["volumes"] == ["/check"]
    assert stack.created["device_requests"][0]["DeviceIDs"] == ["GPU-1"]
    assert stack.container.removed


def test_later_start_measures_nothing() -> None:
    stack = InventedStack(InventedContainer(code=1), there=["journal"])

    assert check(stack) == []
    assert stack.created == {}


@pytest.mark.parametrize(
    ("stack", "said"),
    [
        (InventedStack(InventedContainer(code=1)), "would fail, so nothing was started.*--skip-gpu-check"),
        (InventedStack(InventedContainer(fault="no nvidia runtime")), "no container gets the GPU: no nvidia runtime"),
        (InventedStack(InventedContainer(), built=1), "the trainer's image cannot be built"),
    ],
    ids=["unfit", "no GPU", "no image"],
)
def test_start_is_refused_where_a_run_would_fail(stack: InventedStack, said: str) -> None:
    with pytest.raises(StackError, match=said):
        check(stack)

    assert stack.container.removed == (stack.built == 0)
