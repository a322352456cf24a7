"""Reads RQ's jobs and results within bounds, because a hostile client may have written them.

RQ reads a whole hash and inflates it without a limit, so a job of 298 KB becomes 300 MiB in every process that reads
it. Promises: no hash larger than `STORED_LIMIT_BYTES` in Redis is fetched; nothing inflates beyond
`INFLATED_LIMIT_BYTES`; no JSON nests deeper than `DEPTH_LIMIT`; unused fields are never parsed. A job or result beyond
a bound raises `Unreadable`. Does not cover the wait for a result, whose first reply only Redis's own limits bound.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import redis
from rq.exceptions import DeserializationError, NoSuchJobError, TimeoutFormatError
from rq.job import Job
from rq.results import Result

# Both limits fit our jobs: 512 KiB of source, or a request of 300,000 characters of at most 12 bytes each as JSON.
INFLATED_LIMIT_BYTES = 4 * 1024**2
STORED_LIMIT_BYTES = 6 * 1024**2
DEPTH_LIMIT = 64
_HASH_FIELDS_LIMIT = 64
# RQ raises these for an invalid value of a field, including assertions.
_OF_FIELDS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, TimeoutFormatError)
_DESCRIPTION_BYTES = 200
_READS_TRIED = 10
# The fields that RQ needs of a job without callbacks, dependencies, retries, groups and rate limits, like all of ours.
_FIELDS = (
    b"created_at",
    b"description",
    b"ended_at",
    b"enqueued_at",
    b"failure_ttl",
    b"last_heartbeat",
    b"origin",
    b"result_ttl",
    b"started_at",
    b"status",
    b"timeout",
    b"ttl",
    b"worker_name",
)


class Unreadable(ValueError):
    """Raised for a job or result that is too large, nested too deeply, or no JSON."""


def inflate(raw: bytes) -> bytes:
    """Decompress `raw`, or return it if it is not compressed, as RQ does. Raise Unreadable beyond the limit."""
    engine = zlib.decompressobj()
    try:
        text = engine.decompress(raw, INFLATED_LIMIT_BYTES + 1)
    except zlib.error:
        text = raw
    else:
        if raw and not engine.eof and len(text) <= INFLATED_LIMIT_BYTES:
            raise Unreadable("it is compressed and cut off")
    return _small(text)


def _small(text: bytes) -> bytes:
    if len(text) > INFLATED_LIMIT_BYTES:
        raise Unreadable(f"it is larger than {INFLATED_LIMIT_BYTES} bytes once it is inflated")
    return text


def parse_json(text: bytes) -> Any:
    """Parse JSON. Raise Unreadable for other text and for values nested deeper than DEPTH_LIMIT."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except ValueError as fault:
        raise Unreadable(f"it is no JSON: {str(fault)[:100]}") from fault
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [child for each in level for child in _children(each)]
        if not level:
            return value
    raise Unreadable("it is nested too deeply")


def _children(value: object) -> Iterable[object]:
    """Return the dicts and lists in a value. Other children cannot nest, so a million numbers cost nothing more."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inside if isinstance(each, dict | list)]


class BoundedJob(Job):
    """A job that is read within bounds and without unused fields."""

    def refresh(self) -> None:
        """Read the hash. Raise NoSuchJobError, or Unreadable before a large hash is fetched."""
        values = _read_bounded(self.connection, self.key, lambda pipe: pipe.hgetall(self.key), is_hash=True)
        if not values:
            raise NoSuchJobError(f"No such job: {self.key}")
        self.restore(values)

    @classmethod
    def fetch_many(cls, job_ids: Iterable[str], connection: redis.Redis, serializer: Any = None) -> list[Job | None]:
        """Fetch jobs one by one, with None for a missing job."""
        return [cls._fetch_or_none(job_id, connection, serializer) for job_id in job_ids]

    @classmethod
    def _fetch_or_none(cls, job_id: str, connection: redis.Redis, serializer: Any) -> Job | None:
        try:
            return cls.fetch(job_id, connection=connection, serializer=serializer)
        except NoSuchJobError:
            return None

    def restore(self, raw_data: Any) -> None:
        """Parse the used fields. Raise NoSuchJobError for a hash that is no job, and Unreadable for an invalid one."""
        if b"data" not in raw_data:
            raise NoSuchJobError(f"{self.key} is no job")
        data = inflate(raw_data[b"data"])
        known = {name: raw_data[name] for name in _FIELDS if name in raw_data}
        known[b"description"] = known.get(b"description", b"")[:_DESCRIPTION_BYTES].decode(errors="replace").encode()
        try:
            super().restore(known | {b"data": b""})
        except _OF_FIELDS as fault:
            raise Unreadable(f"a field of it is not RQ's: {type(fault).__name__} {str(fault)[:100]}") from fault
        self.data = data

    def _deserialize_data(self) -> None:
        """Parse the function's name and its arguments. Our jobs call no methods, so the instance is ignored."""
        try:
            name, _, arguments, named = parse_json(self.data)
        except (TypeError, ValueError) as fault:
            raise DeserializationError(str(fault)[:200]) from fault
        if not (isinstance(name, str) and isinstance(arguments, list) and isinstance(named, dict)):
            raise DeserializationError("it is no call of a function")
        self._func_name, self._instance, self._args, self._kwargs = name, None, arguments, named

    def latest_result(self, timeout: int = 0) -> Result | None:
        """Wait at most `timeout` seconds for a result, and return the newest one or None. Raise Unreadable."""
        key = results_key(self.id)
        if timeout and not self.connection.xread({key: "0-0"}, count=1, block=timeout * 1000):
            return None
        found = _read_bounded(self.connection, key, lambda pipe: pipe.xrevrange(key, count=1), is_hash=False)
        return result_of(self.id, found[0], self.connection) if found else None


def results_key(job_id: str) -> str:
    """Return the key of a job's results in RQ."""
    return f"rq:results:{job_id}"


def result_of(job_id: str, entry: Any, connection: redis.Redis) -> Result:
    """Parse one entry of a job's results: an id and fields with the type and the value or error text.

    Raise Unreadable.
    """
    entry_id, fields = entry
    try:
        kind = Result.Type(int(fields[b"type"]))
        packed, words = fields.get(b"return_value"), fields.get(b"exc_string")
        value = None if packed is None else parse_json(_small(b64decode(packed)))
        error_text = None if words is None else inflate(b64decode(words)).decode(errors="replace")
    except (KeyError, ValueError) as fault:
        raise Unreadable(f"the result of {job_id} cannot be read: {fault}") from fault
    return Result(job_id, kind, connection, id=entry_id.decode(), return_value=value, exc_string=error_text)


def _read_bounded(connection: redis.Redis, key: str, read: Callable[[Any], object], *, is_hash: bool) -> Any:
    """Return the result of `read` at `key`. Raise Unreadable if the key is too large.

    The key is watched, so that it cannot grow between the measurement and the read.
    """
    for _ in range(_READS_TRIED):
        with closing(connection.pipeline()) as pipe:
            try:
                pipe.watch(key)  # type: ignore[no-untyped-call]
                _require_small(pipe, key, is_hash)
                pipe.multi()
                read(pipe)
                return pipe.execute()[0]
            except redis.WatchError:
                continue
    raise Unreadable(f"{key} changes while it is read")


def _require_small(pipe: Any, key: str, is_hash: bool) -> None:
    """Raise Unreadable for a large key. The fields are counted first, since Redis walks all of them for the size."""
    if is_hash and pipe.hlen(key) > _HASH_FIELDS_LIMIT:
        raise Unreadable(f"{key} has more than {_HASH_FIELDS_LIMIT} fields")
    size_bytes = pipe.memory_usage(key, samples=0) or 0
    if size_bytes > STORED_LIMIT_BYTES:
        raise Unreadable(f"{key} takes {size_bytes} bytes; the limit is {STORED_LIMIT_BYTES}")
