"""Stops asking a backend that keeps failing, and tries it again after a pause."""

from __future__ import annotations

import random
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

JITTER = 0.2
"""The share by which a pause may be shorter, so that many processes do not all come back at once."""


class CircuitBreaker:
    """Counts failures in a row. After *failures* of them the backend is left alone for *pause* seconds.

    After the pause one caller at a time may try; its success closes the breaker, its failure starts
    another pause. With ``failures=0`` the breaker never opens.
    """

    def __init__(self, failures: int, pause: float, clock: Callable[[], float] = monotonic) -> None:
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._streak = 0
        self._open_until: float | None = None
        self._trying = False

    @property
    def streak(self) -> int:
        """How many failures there were since the last success."""
        return self._streak

    @property
    def is_open(self) -> bool:
        """Whether the backend is left alone at the moment, but for one try after the pause."""
        return self._open_until is not None

    def admits(self) -> bool:
        """Return whether the backend may be asked now; after a pause the first to ask gets the try."""
        if self._open_until is None:
            return True
        if self._trying or self._clock() < self._open_until:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """Close the breaker."""
        self._streak, self._open_until, self._trying = 0, None, False

    def failed(self) -> None:
        """Count a failure, and open the breaker if it is one too many or was the try after a pause."""
        self._streak += 1
        if self._trying or (self._limit and self._streak >= self._limit):
            self._open_until = self._clock() + self._pause * random.uniform(1 - JITTER, 1)
        self._trying = False

    def abandoned(self) -> None:
        """Give the try back: the caller was cancelled before the backend answered."""
        self._trying = False
