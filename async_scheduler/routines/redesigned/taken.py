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
        self._since = 0.0
        self._again_at: float | None = None

    def note(self, taken: bool, *, progressed: bool = False) -> None:
        """Learn whether the last look has found anything locked.

        :param progressed: whether there was something to do besides. What is locked now may then be something
            else, so the next look is soon again; once a second, as one thing may stay locked all the time.
        """
        now = self._clock()
        if not taken:
            self._again_at = None
            return
        if self._again_at is None or (progressed and now - self._since >= AT_LEAST_EVERY):
            self._since = now
        self._again_at = now + min(max(LOOK_AGAIN, now - self._since), AT_LEAST_EVERY)

    def note_more(self) -> None:
        """Learn that a look at some of it has found something locked; the next look is not put off."""
        planned = self._again_at
        self.note(True)
        if planned is not None and self._again_at is not None:
            self._again_at = min(planned, self._again_at)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return self.again_in() == 0.0

    def again_in(self) -> float | None:
        """Return the seconds until the next look, None where nothing is locked."""
        return None if self._again_at is None else max(0.0, self._again_at - self._clock())
