"""Jobs and results of others are read with bounds: whatever bytes they hold, reading ends in a value or a refusal."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from rq.exceptions import DeserializationError, NoSuchJobError

from trainer.jobs import AllowlistedJob, BoundedJob, Unreadable, result_of
from trainer.jobs.bounded import DEPTH_LIMIT, INFLATED_LIMIT_BYTES, inflate, parse_json

NOWHERE = redis.Redis(port=1)
FIELDS = [
    "data",
    "created_at",
    "origin",
    "worker_name",
    "description",
    "enqueued_at",
    "started_at",
    "ended_at",
    "last_heartbeat",
    "group_id",
    "result",
    "timeout",
    "result_ttl",
    "failure_ttl",
    "status",
    "success_callback_name",
    "success_callback_timeout",
    "webhooks",
    "dependency_ids",
    "dependency_id",
    "allow_dependency_failures",
    "enqueue_at_front",
    "ttl",
    "meta",
    "number_of_retries",
    "retries_left",
    "retry_intervals",
    "repeats_left",
    "repeat_intervals",
    "rate_limit_key",
    "rate_limit_concurrency",
    "exc_info",
]
VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"-1", b"nan", b"inf", b"1e400", b"9" * 5000, b"[" * 5000, b"\xff", b"{}", b"true"]),
    st.binary(max_size=60).map(zlib.compress),
    st.integers().map(lambda number: str(number).encode()),
)


@given(st.dictionaries(st.sampled_from(FIELDS).map(str.encode), VALUES))
def test_whatever_a_hash_holds_it_is_read_or_refused(fields: dict[bytes, bytes]) -> None:
    job = BoundedJob("idea-0123456789ab", connection=NOWHERE)
    try:
        job.restore(fields)
        job.args, job.kwargs, job.func_name  # noqa: B018 - reading them parses
    except (Unreadable, NoSuchJobError, DeserializationError):
        return


@given(st.dictionaries(st.sampled_from([b"type", b"return_value", b"exc_string", b"worker_name"]), VALUES))
def test_whatever_a_result_holds_it_is_read_or_refused(fields: dict[bytes, bytes]) -> None:
    try:
        result_of("e-1-t0-a0", (b"1-1", fields), NOWHERE)
    except Unreadable:
        return


@given(st.binary(max_size=200), st.integers(0, 3))
def test_what_is_compressed_comes_back_whole(text: bytes, level: int) -> None:
    assert inflate(zlib.compress(text, level)) == text


@pytest.mark.parametrize("over", [1, 10_000_000])
def test_nothing_inflates_beyond_the_limit(over: int) -> None:
    assert len(inflate(zlib.compress(bytes(INFLATED_LIMIT_BYTES)))) == INFLATED_LIMIT_BYTES
    bomb = zlib.compress(bytes(INFLATED_LIMIT_BYTES + over))
    with pytest.raises(Unreadable, match="larger than"):
        inflate(bomb)
    for field in ("return_value", "exc_string"):
        packed = b64encode(bomb if field == "exc_string" else zlib.decompress(bomb))
        with pytest.raises(Unreadable):
            result_of("e-1-t0-a0", (b"1-1", {b"type": b"1", field.encode(): packed}), NOWHERE)


@pytest.mark.parametrize("depth", [DEPTH_LIMIT, 500, 100_000])
def test_what_nests_too_deeply_is_refused(depth: int) -> None:
    assert parse_json(json.dumps([[1] * 1000, {"a": [{}]}]).encode()) == [[1] * 1000, {"a": [{}]}]
    for begins, ends in ((b"[", b"]"), (b'{"a":', b"}")):
        with pytest.raises(Unreadable, match="deep"):
            parse_json(begins * (depth + 1) + b"1" + ends * (depth + 1))


def test_trouble_of_the_server_does_not_cost_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Work(AllowlistedJob):
        works = "trials"

    def busy(_: object) -> None:
        raise redis.ResponseError("BUSY a script runs")

    monkeypatch.setattr(Work, "refresh", busy)
    with pytest.raises(redis.ResponseError, match="BUSY"):
        Work.fetch("e-1-t0-a0", connection=NOWHERE)
    assert Work.refused == 0
