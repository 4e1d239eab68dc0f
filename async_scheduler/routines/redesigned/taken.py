"""When to look again at what others have locked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_AGAIN, AT_LEAST_EVERY = 0.05, 1.0
"""Seconds after which it is looked at again, for whoever has it locked may leave some of it; then after as
long as it has been locked, up to the second."""


class Taken:
    """Since when something has been found locked, look after look.

    Locked rows are passed over without a word, and nobody tells when they become free.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None

    def note(self, taken: bool) -> None:
        """Learn whether the last look has found anything locked."""
        if not taken:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    def again_in(self) -> float | None:
        """Return the seconds after which to look again, None where nothing is locked."""
        if self._since is None:
            return None
        return min(max(LOOK_AGAIN, self._clock() - self._since), AT_LEAST_EVERY)
