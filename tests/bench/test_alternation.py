"""The cost of tracing from windows that are traced and not in turn."""

from __future__ import annotations

import random

import pytest

from poc_bench.contention.alternation import Window, estimate, line, pairs


def window(traced: bool, cpu: float = 1.0, *, scheduled: int = 100) -> Window:
    return Window(traced, 2.0, cpu, scheduled, 100, 100)


def test_pairs_are_neighbours_between_the_start_and_the_end_of_the_work() -> None:
    on, off = window(True), window(False)
    run = [on, on, off, off, on, on, off, window(False, scheduled=10), window(True, scheduled=0), off]
    assert pairs(run) == [(on, off), (on, off), (on, off)]


def test_a_run_that_is_too_short_has_no_pairs() -> None:
    assert pairs([window(True), window(False)]) == []


def test_a_known_cost_is_found_although_the_machine_varies_and_a_tenth_of_the_pairs_are_wild() -> None:
    chance = random.Random(3)
    coupled = []
    for number in range(100):
        load = chance.uniform(0.8, 1.2)
        wild = 3.0 if number % 10 == 0 else 1.0
        traced = window(True, 1.02 * load * chance.gauss(1, 0.02) * wild)
        coupled.append((traced, window(False, load * chance.gauss(1, 0.02))))
    middle, low, high = estimate(coupled)
    assert low < 1.02 < high
    assert middle == pytest.approx(1.02, abs=0.01)
    assert high - low < 0.03
    assert line(coupled).startswith("100 pairs: +")
