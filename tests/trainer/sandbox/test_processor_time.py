"""Processor seconds of a tree: none is lost when a process ends, and none is counted twice."""

from __future__ import annotations

import os

from trainer.sandbox.procfs import Process
from trainer.sandbox.usage import Ledger


def process(pid: int, parent: int, own_s: float, *, waited_for_s: float = 0.0, began: int = 0) -> Process:
    return Process(pid, parent, "R", own_s, own_s + waited_for_s, 1.0, began)


def test_seconds_of_a_child_nobody_waited_for_count_on() -> None:
    ledger = Ledger(1)

    ledger.note([process(1, 0, 1.0), process(2, 1, 5.0)])
    ledger.note([process(1, 0, 1.5)])

    assert ledger.processor_s == 6.5


def test_seconds_of_a_child_that_was_waited_for_count_once() -> None:
    ledger = Ledger(1)

    ledger.note([process(1, 0, 1.0), process(2, 1, 5.0)])
    ledger.note([process(1, 0, 1.0, waited_for_s=5.25)])

    assert ledger.processor_s == 6.25


def test_child_that_was_never_seen_counts_when_it_was_waited_for() -> None:
    ledger = Ledger(1)

    ledger.note([process(1, 0, 1.0, waited_for_s=3.0)])

    assert ledger.processor_s == 4.0


def test_process_with_the_pid_of_another_is_another() -> None:
    ledger = Ledger(1)

    ledger.note([process(1, 0, 0.0), process(2, 1, 5.0, began=10)])
    ledger.note([process(1, 0, 0.0), process(2, 1, 1.0, began=20)])

    assert ledger.processor_s == 6.0


def test_a_glance_brings_the_count_of_the_living_up_to_date() -> None:
    ledger = Ledger(os.getpid())
    ledger.measure()
    began_s = ledger.processor_s
    while ledger.glance() == began_s:
        sum(range(10_000))

    assert ledger.processor_s > began_s
