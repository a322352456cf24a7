"""RQ jobs with a closed table of functions: what cannot be named cannot be run.

RQ itself would import any function, callback or object that a job's hash names, JSON or not; whoever can write to Redis
could then run code in every worker. A subclass of `ClosedJob` knows its table and drops the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from rq.job import Job


class NotInTable(ValueError):
    """A job asked for a function that is no work of this process."""


class ClosedJob(Job):
    """A job that can ask for nothing but what is in `functions`."""

    functions: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    @property
    def func(self) -> Callable[..., Any]:
        """The function; raises NotInTable."""
        if self.func_name is None or self.func_name not in self.functions:
            known = ", ".join(self.functions) or "nothing"
            raise NotInTable(f"{self.func_name!r} is no work of this process; it does: {known}")
        return self.functions[self.func_name]

    def restore(self, raw_data: Any) -> None:
        """Read the job, and drop everything in it that would run or call something else."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
        self.retries_left = None

    def _deserialize_data(self) -> None:
        super()._deserialize_data()  # type: ignore[no-untyped-call]
        self._instance = None
