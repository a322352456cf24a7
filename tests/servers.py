"""A server of a state folder as it ships, with one more user, `test`, who may do everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.redis.acl import acl_file
from services.redis.server import RedisServer, start_server

PASSWORD = "password-of-test"
EVERYTHING = f"user test on >{PASSWORD} ~* &* +@all\n"


@contextmanager
def open_server(folder: Path) -> Iterator[RedisServer]:
    """Its `url` and `password` are those of `test`, also after a revival; it stops at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.redis.folder.acl_file", lambda passwords: acl_file(passwords) + EVERYTHING)
        started = start_server(folder)
        try:
            yield dataclasses.replace(started, url=started.url_for("test"), password=PASSWORD)
        finally:
            started.stop()
