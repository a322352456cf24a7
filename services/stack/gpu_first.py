"""`overnight gpu-check` in a container of the trainer's image, before a stack is started for the first time on a GPU.

The host may lack torch, so the image is built first. The container has the GPU and a folder of its own, and neither a
network nor a volume of the stack: a check that fails leaves nothing behind, and the next start repeats it. Without a
network the LLM is not measured there; its memory is computed. No GPU has run this yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from docker.errors import APIError
from docker.types import DeviceRequest

from services.machine.compose import ComposeProject, Stack, StackError

SKIP = "--skip-gpu-check"
_FOLDER = "/check"  # an anonymous volume: the compiler loads what it has written there
_COMMAND = ("python", "-m", "services.cli", "gpu-check", "--state", f"{_FOLDER}/state")


def check_gpu_first(
    stack: Stack, project: ComposeProject, gpu_uuid: str, profile: str | None, say: Callable[[str], object]
) -> None:
    """Build the trainer's image and examine the GPU with it, if the stack has no volume yet.

    `profile` is None for the one that fits the GPU. Raise StackError if a run on this GPU would fail.
    """
    if stack.volumes():
        return
    say(f"gpu-check before the first start, about five minutes; to leave it out: scripts/up {SKIP}")
    if stack.build(project, "trainer") != 0:
        raise StackError("the trainer's image cannot be built", "see the lines above")
    command = [*_COMMAND, *(() if profile is None else ("--profile", profile))]
    if run_on_gpu(stack, project.image("trainer"), command, gpu_uuid, say) != 0:
        raise StackError(
            "a run on this GPU would fail, so nothing was started",
            f"do what the report says, then the same command again; or, if you know better: scripts/up {SKIP}",
        )


def run_on_gpu(stack: Stack, image: str, command: Sequence[str], gpu_uuid: str, say: Callable[[str], object]) -> int:
    """Run a command in a container with a GPU, show what it prints, and return its exit code. Raise StackError."""
    request = DeviceRequest(driver="nvidia", device_ids=[gpu_uuid or "0"], capabilities=[["gpu"]])
    container = stack.engine.containers.create(
        image,
        list(command),
        device_requests=[request],
        environment={"NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "HOME": _FOLDER, "TMPDIR": _FOLDER},
        volumes=[_FOLDER],
        network_mode="none",
        init=True,
        shm_size="2g",
    )
    try:
        try:
            container.start()
        except APIError as error:
            raise StackError(f"no container gets the GPU: {error.explanation or error}", "scripts/doctor") from error
        for line in container.logs(stream=True, follow=True):
            say(line.decode(errors="replace").rstrip("\n"))
        code: int = container.wait()["StatusCode"]
        return code
    finally:
        container.remove(v=True, force=True)
