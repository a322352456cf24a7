"""The LLM's side of the lease of a GPU: every answer holds the lease, and ends early if a trial waits.

Promises: no answer begins while a trial starts or is timed on the GPU of the LLM; an answer in progress is cancelled
within a second once a trial waits for it; an answer that an earlier researcher left is ended at the server before the
GPU is given free. Does not cover other clients of the server, whose work shows in the measured overlap alone.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import redis

from researcher.errors import GpuBusy, LlmUnavailable
from researcher.llm.client import Answer, ChatClient, HoldsGpu, KnowsSize, Message, Sampling, ShowsProgress
from trainer.jobs import UNNAMED_GPU, Fenced, GpuTaken, LeasePhase, LeaseStore, RedisClient, WorkerRole

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
Tick = Callable[[], None]


@runtime_checkable
class GpuServer(ChatClient, HoldsGpu, KnowsSize, ShowsProgress, Protocol):
    """A server that loads its model onto the GPU of the trials."""

    def silence(self, tick: Tick) -> None:
        """End all answers of the server and unload its models. Raises ModelNotUnloaded or LlmUnavailable."""

    def loaded_mib(self) -> int:
        """Return the GPU memory of the loaded models, in MiB. Raises LlmUnavailable."""


class LeasedClient:
    """A client whose answers hold the leases of all GPUs on which trainers work, as the LLM may be on any of them.

    `beside` means that a trial and the model fit the GPU together.
    """

    def __init__(self, server: GpuServer, bus: RedisClient, *, beside: bool) -> None:
        self._server = server
        self._bus = bus
        self.beside = beside
        self._name = secrets.token_hex(4)
        self._live = set[str]()
        self._silencing = threading.Lock()

    @property
    def url(self) -> str:
        """The server's address."""
        return self._server.url

    @property
    def model(self) -> str:
        """The model's name."""
        return self._server.model

    @property
    def context_tokens(self) -> int:
        """The whole context in tokens."""
        return self._server.context_tokens

    @property
    def answer_tokens(self) -> int:
        """The part of the context that is reserved for the answer."""
        return self._server.answer_tokens

    @property
    def billions(self) -> float | None:
        """The billions of parameters, or None before the server has told them."""
        return self._server.billions

    def progress(self) -> str:
        """Describe the progress of the answer in words for users."""
        return self._server.progress()

    def check_available(self) -> None:
        """Check that the server has the model. Raises LlmUnavailable."""
        self._server.check_available()

    def may_answer_beside_trial(self) -> bool:
        """Return True if a trial is being scored, and an answer may begin beside it."""
        try:
            readings = [store.read() for store in self._stores(lambda: None)]
        except GpuBusy:
            return False
        is_scored = any(lease.phase is LeasePhase.SCORING and lease.is_held(at) for lease, at in readings)
        return self.beside and is_scored and all(lease.may_answer(at, beside=True) for lease, at in readings)

    def chat(
        self,
        messages: Sequence[Message],
        tick: Tick,
        *,
        answer_tokens: int | None = None,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
    ) -> Answer:
        """Return one answer, as the server's client does. Raises GpuBusy if a trial needs the GPU, also meanwhile."""
        with contextlib.ExitStack() as held:
            looks = [held.enter_context(self._answering(store)) for store in self._stores(tick)]

            def look() -> None:
                tick()
                for each in looks:
                    each()

            return self._server.chat(messages, look, answer_tokens=answer_tokens, schema=schema, sampling=sampling)

    def unload(self, tick: Tick) -> None:
        """Unload a model that does not stay on the GPU during trials, and record the memory of one that stays.

        Raises ModelNotUnloaded or LlmUnavailable.
        """
        self._server.unload(tick)
        llm_mib = self._server.loaded_mib()
        with contextlib.suppress(GpuBusy):
            for store in self._stores(tick):
                store.change(lambda lease, _: lease.with_llm(llm_mib))

    def _stores(self, tick: Tick) -> list[LeaseStore]:
        """Return the leases, after an answer that nobody receives any more was ended at the server.

        Raises GpuBusy while no trainer shows itself.
        """
        trainers = self._bus.workers(WorkerRole.TRAINER)
        names = sorted({trainer.gpu or UNNAMED_GPU for trainer in trainers})
        if not names:
            raise GpuBusy("no trainer shows itself, so it is not known whether the LLM would disturb a trial")
        stores = [LeaseStore(self._bus.connection, name) for name in names]
        for store in stores:
            with self._silencing:
                answer = store.read().lease.answer
                if answer is None or answer.owner in self._live:
                    continue
                logger.warning("an earlier answer may still use GPU %s; the LLM is unloaded", store.gpu)
                with contextlib.suppress(LlmUnavailable):  # whatever is not there answers nothing
                    self._server.silence(tick)
                store.change(lambda lease, at: lease.silenced(at))
        return stores

    @contextlib.contextmanager
    def _answering(self, store: LeaseStore) -> Iterator[Tick]:
        """Hold a lease for an answer until the block ends. The tick raises GpuBusy once a trial waits for its end."""
        owner = f"{self._name}-{secrets.token_hex(8)}"
        self._live.add(owner)
        try:
            try:
                store.change(lambda lease, at: lease.answering(owner, self._name, at, beside=self.beside))
            except GpuTaken as taken:
                raise GpuBusy(str(taken)) from taken
            try:
                yield _Look(store, owner)
            finally:
                self._end(store, owner)
        finally:
            self._live.discard(owner)

    def _end(self, store: LeaseStore, owner: str) -> None:
        """End an answer. If Redis does not answer, the next use of the lease ends it."""
        llm_mib: int | None = None
        with contextlib.suppress(LlmUnavailable):
            llm_mib = self._server.loaded_mib()
        try:
            store.change(lambda lease, at: lease.answered(owner, lease.llm_mib if llm_mib is None else llm_mib, at))
        except (redis.RedisError, Fenced) as fault:
            logger.warning("the end of an answer could not be recorded for GPU %s: %s", store.gpu, fault)


class _Look:
    """Looks twice a second whether an answer may go on."""

    def __init__(self, store: LeaseStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._next_s = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + LOOK_EVERY_S
        lease, at = self._store.read()
        if lease.answer is None or lease.answer.owner != self._owner:
            raise GpuBusy("the answer has lost the GPU, as Redis lost the lease")
        if lease.is_wanted(at):
            raise GpuBusy("the answer was cancelled, as a trial is about to start")


@dataclass(frozen=True)
class LeasedPolicy:
    """Lets the LLM draft while a trial is scored, and never while one is timed."""

    client: LeasedClient

    def may_draft(self) -> bool:
        """Return True if a trial is being scored, and nothing else needs the GPU."""
        return self.client.may_answer_beside_trial()
