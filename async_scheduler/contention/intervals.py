"""Intervals for ratios of paired measurements."""

from __future__ import annotations

from math import exp, lgamma, log, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t, two-sided 95 %, for 1 to 30 degrees of freedom."""


LEAST = 3
"""Pairs below which an interval would say nothing."""


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the geometric mean of ``above[i] / below[i]`` and its 95 % interval; None below three pairs."""
    logs = [log(a / b) for a, b in zip(above, below, strict=True) if a > 0 and b > 0]
    if len(logs) < LEAST:
        return None
    middle = fmean(logs)
    freedom = len(logs) - 1
    half = (T_975[freedom - 1] if freedom <= len(T_975) else 1.96) * stdev(logs) / sqrt(len(logs))
    return exp(middle), exp(middle - half), exp(middle + half)


def rate_limit(seen: int, trials: int, per: int = 10_000) -> float:
    """Return the upper end of the 95 % interval (one-sided, Poisson) of a rate, of which *seen* were counted.

    Nothing seen in n trials still allows 3 / n.
    """
    low, high = 0.0, seen + 20.0 + 6 * sqrt(seen)
    for _ in range(60):
        middle = (low + high) / 2
        tail = sum(exp(k * log(middle) - middle - lgamma(k + 1)) for k in range(seen + 1)) if middle else 1.0
        low, high = (middle, high) if tail > 0.05 else (low, middle)
    return per * high / trials
