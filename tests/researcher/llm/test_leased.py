"""The LLM on the GPU of the trials: real lease, real client, an Ollama over HTTP whose memory is that of the GPU."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from researcher.errors import GpuBusy
from researcher.llm.client import HoldsGpu, Message
from researcher.llm.leased import GpuServer, LeasedClient, LeasedPolicy
from researcher.llm.ollama import OllamaClient
from researcher.llm.ollama_api import OllamaSettings
from services.redis.server import RedisServer
from tests.doubles.ollama_faults import SlowToUnload
from tests.doubles.ollama_server import SIZE, OllamaDouble, Turn, ollama_double
from tests.fixtures.trials import wait_for
from trainer.jobs import HOLD_S, GpuTaken, LeasePhase, LeaseStore, Progress, RedisClient
from trainer.worker.gpu_hold import GpuHold, held_gpu
from trainer.worker.heartbeat import IDLE, Heartbeat

GPU, MODEL = "GPU-1", "smollm2"
QUESTION = [Message("user", "Name one primary colour.")]
SETTINGS = OllamaSettings("", MODEL, num_ctx=16384, on_gpu=True, reserve_mib=10 * 1024)
TRICKLE = Turn("one two three four five six", fault="stall")


def nothing() -> None:
    """A tick with nothing to do."""


def is_running() -> bool:
    return False


@pytest.fixture
def store(bus: RedisClient) -> LeaseStore:
    Heartbeat(bus.connection, "trainer-1", gpu=GPU).show(IDLE)
    return LeaseStore(bus.connection, GPU)


def client_of(server: OllamaDouble, bus: RedisClient, *, beside: bool = True) -> LeasedClient:
    return LeasedClient(OllamaClient(replace(SETTINGS, host=server.url, resident=beside)), bus, beside=beside)


@pytest.fixture
def ollama() -> Iterator[OllamaDouble]:
    with ollama_double(["red"], model=MODEL) as listening:
        yield listening


def in_phase(hold: GpuHold, store: LeaseStore, phase: str) -> None:
    hold.report(Progress(phase, 0.0, 0.0))
    wait_for(lambda: store.read().lease.phase == phase, 10)


def test_an_answer_is_recorded_with_the_memory_that_the_model_takes(
    ollama: OllamaDouble, bus: RedisClient, store: LeaseStore
) -> None:
    answer = client_of(ollama, bus).chat(QUESTION, nothing)

    lease, _ = store.read()
    assert answer.text == "red"
    assert (lease.answer, len(lease.answers), lease.llm_mib) == (None, 1, SIZE // 2**20)


@pytest.mark.parametrize("beside", [True, False], ids=["co-resident", "swap"])
def test_the_llm_is_silent_while_a_trial_starts_and_is_timed(
    beside: bool, ollama: OllamaDouble, bus: RedisClient, store: LeaseStore, tmp_path: Path
) -> None:
    client = client_of(ollama, bus, beside=beside)
    policy = LeasedPolicy(client)

    with held_gpu(store, "trial", is_running, tmp_path) as hold:
        for phase in ("starting", "timed"):
            in_phase(hold, store, phase)
            assert not policy.may_draft()
            with pytest.raises(GpuBusy, match=f"a trial is {phase}"):
                client.chat(QUESTION, nothing)
        assert ollama.calls == []
        in_phase(hold, store, "scoring")
        assert policy.may_draft() is beside
        if beside:
            assert client.chat(QUESTION, nothing).text == "red"
        else:
            with pytest.raises(GpuBusy):
                client.chat(QUESTION, nothing)

    assert not policy.may_draft(), "between trials the loop itself asks"
    assert client.chat(QUESTION, nothing).text == "red"


def test_a_trial_that_waits_has_the_answer_cancelled_and_starts_only_then(
    bus: RedisClient, store: LeaseStore, tmp_path: Path
) -> None:
    asked, busy = threading.Event(), list[GpuBusy]()

    def ask() -> None:
        try:
            client.chat(QUESTION, asked.set)
        except GpuBusy as error:
            busy.append(error)

    with ollama_double([TRICKLE], model=MODEL) as server:
        client = client_of(server, bus)
        asking = threading.Thread(target=ask)
        asking.start()
        assert asked.wait(30)
        wait_for(lambda: len(server.asked) == 1, 30)
        with held_gpu(store, "trial", is_running, tmp_path) as hold:
            assert store.read().lease.answer is None
            assert server.hung_up.wait(30), "the server hears of it"
            asking.join(30)
            in_phase(hold, store, "timed")

    assert ["about to start" in str(error) for error in busy] == [True]
    lease, at = store.read()
    assert (lease.overlap_s(at), lease.is_wanted(at)) == (0.0, False)


ASKS = """
import sys
from researcher.llm.leased import LeasedClient
from researcher.llm.client import Message
from researcher.llm.ollama import OllamaClient
from researcher.llm.ollama_api import OllamaSettings
from trainer.jobs import RedisClient, connect

url, password, host, model = sys.argv[1:]
server = OllamaClient(OllamaSettings(host, model, num_ctx=16384, on_gpu=True, reserve_mib=10240))
client = LeasedClient(server, RedisClient(connect(url, password=password)), beside=True)
client.chat([Message("user", "Name one primary colour.")], lambda: None)
"""


def test_what_a_killed_researcher_left_is_ended_at_the_server_before_the_gpu_is_free(
    server: RedisServer, bus: RedisClient, store: LeaseStore, tmp_path: Path
) -> None:
    with ollama_double([TRICKLE, "red"], model=MODEL) as listening:
        argv = [sys.executable, "-c", ASKS, server.url, server.password or "", listening.url, MODEL]
        with subprocess.Popen(argv) as process:
            wait_for(lambda: len(listening.asked) == 1, 60)
            process.kill()
        with (
            pytest.raises(GpuTaken, match="the LLM has been answering"),
            held_gpu(store, "trial", is_running, tmp_path, 0),
        ):
            pass
        assert listening.held is not None

        assert not LeasedPolicy(client_of(listening, bus)).may_draft()

        assert listening.held is None, "its answers ended with the model"
        with held_gpu(store, "trial", is_running, tmp_path, 0) as hold:
            assert not hold.is_fenced


def test_an_answer_whose_lease_redis_lost_is_cancelled(bus: RedisClient, store: LeaseStore) -> None:
    with ollama_double([TRICKLE], model=MODEL) as server:

        def tick() -> None:
            if server.asked:
                bus.connection.delete(f"overnight:gpu:{GPU}")

        with pytest.raises(GpuBusy, match="Redis lost the lease"):
            client_of(server, bus).chat(QUESTION, tick)

    assert store.read().lease.answer is None


def test_a_model_that_leaves_slowly_is_gone_before_the_lease_says_so(bus: RedisClient, store: LeaseStore) -> None:
    with ollama_double(["red"], model=MODEL, kind=SlowToUnload) as server:
        client = client_of(server, bus, beside=False)
        client.chat(QUESTION, nothing)
        assert store.read().lease.llm_mib > 0

        client.unload(nothing)

        assert (server.held, store.read().lease.llm_mib) == (None, 0)


def test_a_resident_model_stays(ollama: OllamaDouble, bus: RedisClient, store: LeaseStore) -> None:
    client = client_of(ollama, bus)
    client.chat(QUESTION, nothing)

    client.unload(nothing)

    assert ollama.held is not None
    assert store.read().lease.llm_mib > 0


def test_nothing_is_asked_before_a_trainer_shows_itself(ollama: OllamaDouble, bus: RedisClient) -> None:
    with pytest.raises(GpuBusy, match="no trainer shows itself"):
        client_of(ollama, bus).chat(QUESTION, nothing)

    assert ollama.calls == []


def test_with_two_gpus_the_llm_is_silent_while_a_trial_is_timed_on_either(
    ollama: OllamaDouble, bus: RedisClient, store: LeaseStore, tmp_path: Path
) -> None:
    Heartbeat(bus.connection, "trainer-2", gpu="GPU-2").show(IDLE)
    client = client_of(ollama, bus)

    with held_gpu(LeaseStore(bus.connection, "GPU-2"), "trial", is_running, tmp_path), pytest.raises(GpuBusy):
        client.chat(QUESTION, nothing)

    assert store.read().lease.answer is None, "the lease of the other GPU was given back"
    assert ollama.calls == []
    assert client.chat(QUESTION, nothing).text == "red"


def test_a_trial_whose_beats_ended_silences_the_llm_no_longer(
    ollama: OllamaDouble, bus: RedisClient, store: LeaseStore
) -> None:
    store.change(lambda lease, at: lease.acquired("dead", at - HOLD_S))

    assert client_of(ollama, bus).chat(QUESTION, nothing).text == "red"
    assert store.read().lease.phase is LeasePhase.IDLE


def test_only_the_client_of_a_shared_gpu_is_leased(ollama: OllamaDouble, bus: RedisClient) -> None:
    client = client_of(ollama, bus)

    assert isinstance(client, HoldsGpu)
    assert isinstance(OllamaClient(replace(SETTINGS, host=ollama.url)), GpuServer)
    assert (client.model, client.context_tokens, client.url) == (MODEL, 16384, ollama.url)
