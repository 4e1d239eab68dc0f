"""Ratios, spreads and the test against noise."""

from __future__ import annotations

import pytest

from poc_bench.statistics import Spread, beyond_noise, chance, paired_ratios

LOW, HIGH = [10.0, 11.0, 12.0, 13.0, 14.0], [20.0, 21.0, 22.0, 23.0, 24.0]


def test_five_against_five_apart_is_one_in_252() -> None:
    assert chance(LOW, HIGH) == pytest.approx(1 / 252)
    assert chance(HIGH, LOW) == pytest.approx(1 / 252)


def test_equal_values_are_no_evidence() -> None:
    assert chance(LOW, LOW) > 0.4


def test_ties_share_their_rank() -> None:
    assert chance([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]) == 1.0


def test_apart_by_more_than_noise() -> None:
    assert beyond_noise(LOW, HIGH) is True
    assert beyond_noise([100.0, 140.0, 80.0, 120.0, 90.0], [95.0, 130.0, 85.0, 125.0, 99.0]) is False


def test_a_sure_but_tiny_difference_is_not_worth_a_word() -> None:
    assert beyond_noise([100.0, 100.1, 100.2], [101.0, 101.1, 101.2]) is False


def test_two_repeats_tell_nothing() -> None:
    assert beyond_noise([1.0, 1.0], [9.0, 9.0]) is None


def test_three_repeats_have_to_be_fully_apart() -> None:
    assert beyond_noise([10.0, 11.0, 12.0], [20.0, 21.0, 22.0]) is True
    assert beyond_noise([10.0, 11.0, 20.5], [20.0, 21.0, 22.0]) is False


def test_ratios_are_taken_repeat_by_repeat() -> None:
    assert paired_ratios([(1, 20.0), (2, 30.0), (4, 1.0)], [(2, 10.0), (1, 5.0)]) == [4.0, 3.0]


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([1.0, 3.0]).times(2) == Spread(4.0, 2.0, 6.0, 2)
