"""Medians, spreads, ratios pair by pair, and the test of a difference against the noise. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNIFICANT = 0.02
"""A difference counts when it would come about by chance no more often than this."""
SMALLEST = 0.05
"""A relative change below this is not worth a word."""
FEWEST = 3
"""Repeats on each side below which nothing is said."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the lowest and highest value."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of *values* (at least one)."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def times(self, factor: float) -> Spread:
        """Return the spread of all values multiplied by *factor* (above 0)."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.count)


def paired_ratios(values: Sequence[tuple[int, float]], baseline: Sequence[tuple[int, float]]) -> list[float]:
    """Return value / baseline for each repeat that both have; both are (repeat, value)."""
    base = dict(baseline)
    return [value / base[repeat] for repeat, value in values if base.get(repeat)]


def chance(before: Sequence[float], after: Sequence[float]) -> float:
    """Return how often relabelling all values would part them at least as far in this direction.

    An exact permutation test on the difference of means of ranks, one-sided. 5 against 5 values that do not
    overlap give 1 / 252.
    """
    values = [*before, *after]
    rank = _ranks(values)
    observed = sum(rank[len(before) :])
    upward = statistics.fmean(rank[len(before) :]) >= statistics.fmean(rank[: len(before)])
    extreme = 0
    for chosen in combinations(rank, len(after)):
        total = sum(chosen)
        extreme += total >= observed if upward else total <= observed
    return extreme / comb(len(values), len(after))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal values share the mean of their ranks."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    for position, value in enumerate(ordered):
        first.setdefault(value, position)
    return [first[value] + (ordered.count(value) - 1) / 2 for value in values]


def beyond_noise(before: Sequence[float], after: Sequence[float]) -> bool | None:
    """Return whether *after* differs from *before* by more than chance; None with too few repeats to tell."""
    if min(len(before), len(after)) < FEWEST:
        return None
    middle = statistics.median(before)
    if middle == 0 or abs(statistics.median(after) / middle - 1) < SMALLEST:
        return False
    strictest = 1 / comb(len(before) + len(after), len(after))
    return chance(before, after) <= max(SIGNIFICANT, strictest)
