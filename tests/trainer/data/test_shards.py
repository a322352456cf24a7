"""Shards through a folder and through servers on loopback that hang up, forget, or refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.data.conftest import (
    DroppingServer,
    EmptyServer,
    FileServer,
    ForgetfulServer,
    OverloadedServer,
    Serve,
    share_secret,
    story,
    write_shard,
)
from trainer.data import DataError, PreparationStep, ReaderMissing, SourceAway, TextUnusable, prepare
from trainer.data.download import download
from trainer.data.shards import Climbmix, shard_name
from trainer.jobs import Profile

CONTENT = np.random.default_rng(1).bytes(10_000)


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path, serve: Serve) -> None:
    server = serve(DroppingServer, CONTENT)
    waits: list[float] = []

    download(f"{server.url}/a", tmp_path / "a", lambda done, total: None, waits.append)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    assert waits == [2, 4, 8]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_an_earlier_process_left_is_gone_on_with(tmp_path: Path, serve: Serve) -> None:
    server = serve(FileServer, CONTENT)
    (tmp_path / "a.tmp").write_bytes(CONTENT[:4000])
    arrived: list[tuple[int, int | None]] = []

    download(f"{server.url}/a", tmp_path / "a", lambda done, total: arrived.append((done, total)))

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.asked == ["bytes=4000-"]
    assert arrived[-1] == (10_000, 10_000)


@pytest.mark.parametrize(("left", "asked"), [(10_000, ["bytes=10000-"]), (12_000, ["bytes=12000-", None])])
def test_a_whole_leftover_is_taken_and_one_too_long_is_fetched_anew(
    tmp_path: Path, serve: Serve, left: int, asked: list[str | None]
) -> None:
    server = serve(FileServer, CONTENT)
    (tmp_path / "a.tmp").write_bytes((CONTENT + CONTENT)[:left])

    download(f"{server.url}/a", tmp_path / "a", lambda done, total: None, lambda wait_s: None)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.asked == asked


def test_a_server_without_ranges_is_asked_for_all_of_it_again(tmp_path: Path, serve: Serve) -> None:
    server = serve(ForgetfulServer, CONTENT)

    download(f"{server.url}/a", tmp_path / "a", lambda done, total: None, lambda wait_s: None)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-"]


def test_five_tries_with_doubling_waits_then_a_clear_error(tmp_path: Path, serve: Serve) -> None:
    server = serve(OverloadedServer, CONTENT)
    waits: list[float] = []

    with pytest.raises(SourceAway, match=r"5 tries .*503 Service Unavailable.*check the network or set another base"):
        download(f"{server.url}/a", tmp_path / "a", lambda done, total: None, waits.append)

    assert len(server.asked) == 5
    assert waits == [2, 4, 8, 16]


def test_no_such_file_is_said_at_once(tmp_path: Path, serve: Serve) -> None:
    server = serve(EmptyServer, CONTENT)

    with pytest.raises(SourceAway, match="404 Not Found; check the base URL"):
        download(f"{server.url}/a", tmp_path / "a", lambda done, total: None)

    assert len(server.asked) == 1


def test_nobody_listening_is_said_after_five_tries(tmp_path: Path) -> None:
    with pytest.raises(SourceAway, match="ConnectError"):
        download("http://127.0.0.1:9/a", tmp_path / "a", lambda done, total: None, lambda wait_s: None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTP_PROXY", "ftp://proxy.example"),
        ("SSL_CERT_FILE", "/nowhere/own.pem"),
    ],
)
def test_a_proxy_or_certificates_that_cannot_be_used_are_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SourceAway, match="setting of the environment"):
        download("http://text.example/a", tmp_path / "a", lambda done, total: None)


def test_shards_of_a_folder_become_rows_and_no_document_is_in_two_splits(
    shard_folder: Path, tiny: Profile, tmp_path: Path
) -> None:
    profile = _climbmix(tiny)

    manifest = prepare(profile, tmp_path / "data", base_url=str(shard_folder), train_shards=2)

    assert manifest.documents == {"train": 80, "val": 10, "heldout": 10}
    assert manifest.left_out == {"train": 1, "val": 0, "heldout": 0}
    assert manifest.text == "climbmix"


def test_every_address_of_the_same_shards_gives_the_same_digest(
    shard_folder: Path, tiny: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_SHARDS_URL", f"{shard_folder.as_uri()}/")

    by_environment = prepare(_climbmix(tiny), tmp_path / "a", train_shards=1)
    share_secret(tmp_path / "a", tmp_path / "b")
    by_argument = prepare(_climbmix(tiny), tmp_path / "b", base_url=str(shard_folder), train_shards=1)

    assert by_environment.digest == by_argument.digest


def test_shards_come_over_http_and_are_read_without_it_afterwards(tmp_path: Path, serve: Serve, tiny: Profile) -> None:
    write_shard(tmp_path / "one", [story(seed) for seed in range(30)])
    server = serve(DroppingServer, (tmp_path / "one").read_bytes())
    stages: list[PreparationStep] = []
    text = Climbmix(tmp_path, server.url, train_shards=1, sleep=lambda wait_s: None)

    text.fetch(stages.append)
    asked = len(server.asked)
    text.fetch(stages.append)

    assert len(server.asked) == asked
    assert list(text.documents("train")) == [story(seed) for seed in range(30)]
    assert list(text.documents("val")) == [story(seed) for seed in range(0, 30, 2)]
    assert list(text.documents("heldout")) == [story(seed) for seed in range(1, 30, 2)]
    assert (text.count("train"), text.count("val"), text.count("heldout")) == (30, 15, 15)
    assert stages[-1].name == "download 2 of 2"
    assert stages[-1].done == stages[-1].total


def test_an_error_page_instead_of_a_shard_is_told_and_not_kept(shard_folder: Path, tmp_path: Path) -> None:
    (shard_folder / shard_name(0)).write_text("<html>please log in</html>")
    text = Climbmix(tmp_path, str(shard_folder), train_shards=1)

    with pytest.raises(TextUnusable, match=r"shard_00000\.parquet is not a parquet file and was removed"):
        text.fetch(lambda stage: None)

    assert not (tmp_path / shard_name(0)).exists()


def test_without_the_package_that_reads_shards_none_is_downloaded(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ReaderMissing, match="pyarrow"):
        Climbmix(tmp_path / "data", str(shard_folder)).fetch(lambda stage: None)

    assert not (tmp_path / "data").exists()


def test_a_damaged_shard_and_one_without_text_name_the_file(shard_folder: Path, tmp_path: Path) -> None:
    text = Climbmix(shard_folder, str(shard_folder), train_shards=2)
    whole = (shard_folder / shard_name(0)).read_bytes()
    (shard_folder / shard_name(0)).write_bytes(whole[:200] + bytes(3000) + whole[3200:])
    with pytest.raises(TextUnusable, match=r"shard_00000\.parquet is damaged"):
        list(text.documents("train"))

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"content": ["a"]}), shard_folder / shard_name(0))
    with pytest.raises(TextUnusable, match=r"no column 'text', only \['content'\]"):
        text.count("train")


def test_a_missing_folder_and_a_wrong_number_of_shards_are_clear(tmp_path: Path) -> None:
    with pytest.raises(SourceAway, match="does not exist; check the base URL"):
        Climbmix(tmp_path, str(tmp_path / "nowhere")).fetch(lambda stage: None)
    with pytest.raises(DataError, match="give a number from 1 to 6542"):
        Climbmix(tmp_path, train_shards=0)


def _climbmix(profile: Profile) -> Profile:
    import dataclasses

    return dataclasses.replace(profile, text="climbmix")
