"""The files with which a machine is rented, against the fields that their readers take.

Each model is a record of a published schema, with its source. Fields that the files do not use are left out. dstack.yml
and sky.yaml were also read by the parsers of dstack 0.22.5 and SkyPilot 0.14.1, which this environment does not have.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from services.allinone.run import OPTIONS
from tests import ROOT
from trainer.jobs.environment import INHERITED

FOLDER = ROOT / "services" / "allinone"
PORT = Annotated[str, Field(pattern=r"^\d+/(tcp|http)$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RunPod(Strict):
    """TemplateCreateInput of RunPod's REST API v1: runpod/docs, api-reference/openapi.json."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)

    name: Annotated[str, Field(max_length=191)]
    image_name: str
    category: Literal["NVIDIA", "AMD", "CPU"]
    container_disk_in_gb: int
    volume_in_gb: int
    volume_mount_path: str
    ports: list[PORT]
    env: dict[str, str]
    readme: str
    is_public: bool
    is_serverless: bool


class Vast(Strict):
    """Body of POST /api/v0/template of Vast: its page `create template`."""

    name: Annotated[str, Field(max_length=256)]
    image: Annotated[str, Field(max_length=1024)]
    tag: str
    desc: str
    env: Annotated[str, Field(max_length=1024)]
    runtype: Literal["ssh", "jupyter", "args"]
    args_str: str
    private: bool
    recommended_disk_space: int
    extra_filters: dict[str, dict[Literal["eq", "gte", "lte", "gt", "lt", "in"], float | int]]


class SkyAutostop(Strict):
    """`autostop` of SkyPilot's resources."""

    idle_minutes: int
    down: bool = False


class SkyResources(Strict):
    """`resources`: sky/utils/schemas.py of SkyPilot 0.14.1."""

    image_id: Annotated[str, Field(pattern="^docker:")]
    accelerators: dict[str, int]
    cpus: str
    memory: str
    disk_size: int
    autostop: SkyAutostop


class Sky(Strict):
    """get_task_schema: sky/utils/schemas.py of SkyPilot 0.14.1."""

    name: str
    resources: SkyResources
    envs: dict[Annotated[str, Field(pattern="^[a-zA-Z_][a-zA-Z0-9_]*$")], str | None]
    run: str


class DstackVolume(Strict):
    """InstanceMountPoint: dstack/_internal/core/models/volumes.py of dstack 0.22.5."""

    instance_path: str
    path: str
    optional: bool = False


class DstackRetry(Strict):
    """ProfileRetry: dstack/_internal/core/models/profiles.py."""

    on_events: list[Literal["no-capacity", "interruption", "error"]]
    duration: str


class DstackResources(Strict):
    """ResourcesSpec: dstack/_internal/core/models/resources.py."""

    cpu: str
    memory: str
    disk: str
    shm_size: str
    gpu: str


class Dstack(Strict):
    """TaskConfiguration: dstack/_internal/core/models/configurations.py."""

    type: Literal["task"]
    name: str
    image: str
    env: list[Annotated[str, Field(pattern="^[a-zA-Z_][a-zA-Z0-9_]*(=.*)?$")]]
    working_dir: Annotated[str, Field(pattern="^/")]
    commands: list[str]
    volumes: list[DstackVolume]
    resources: DstackResources
    max_duration: str
    spot_policy: Literal["spot", "on-demand", "auto"]
    retry: DstackRetry


FILES: dict[str, type[Strict]] = {
    "runpod-template.json": RunPod,
    "vast-template.json": Vast,
    "sky.yaml": Sky,
    "dstack.yml": Dstack,
}


def read(path: Path) -> dict[str, Any]:
    text = path.read_text()
    found: dict[str, Any] = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    return found


def variables(name: str, content: dict[str, Any]) -> set[str]:
    """The variables that a file sets in the container."""
    match name:
        case "vast-template.json":
            words = content["env"].split()
            return {after.partition("=")[0] for word, after in pairwise(words) if word == "-e"}
        case "dstack.yml":
            return {each.partition("=")[0] for each in content["env"]}
    return set(content.get("env") or content["envs"])


@pytest.mark.parametrize("name", FILES)
def test_a_rental_file_has_the_fields_that_its_reader_takes(name: str) -> None:
    content = read(FOLDER / name)

    FILES[name].model_validate(content)

    with pytest.raises(ValidationError, match="Extra inputs"):
        FILES[name].model_validate(content | {"unknown": 1})


@pytest.mark.parametrize("name", FILES)
def test_a_rental_file_ends_its_run_and_sets_only_what_the_image_reads(name: str) -> None:
    found = variables(name, read(FOLDER / name))
    known = {"BACKUP", "PUBLIC_KEY", "PYTHONPATH", *OPTIONS} | {key for row in INHERITED for key in row.names.split()}

    assert "HOURS" in found
    assert found <= known


def test_every_rental_file_says_that_it_was_not_run_there() -> None:
    assert [name for name in FILES if "ot run " not in (FOLDER / name).read_text()] == []
