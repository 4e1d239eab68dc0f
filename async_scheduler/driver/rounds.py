"""Counts rounds, the unit of ``--num-runs``: a round is over when every core routine has passed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_scheduler.driver.routine import Outcome


class Rounds:
    """Counts rounds and ends the scheduler after the number asked for.

    ``only_idle``: count rounds in a row in which no routine made progress, as the sync loop's flag does.
    ``first``: routines that have to pass once before the first round begins, as the sync loop adopts orphans
    before its first turn.
    """

    def __init__(
        self,
        core: Iterable[str],
        limit: int,
        only_idle: bool,
        on_round: Callable[[float], None],
        on_limit: Callable[[], None],
        first: Iterable[str] = (),
    ) -> None:
        self._core = frozenset(core)
        self._limit = limit
        self._only_idle = only_idle
        self._on_round = on_round
        self._on_limit = on_limit
        self._first = set(first)
        self._missing: set[str] = set()
        self._idle = True
        self._begin_round(perf_counter())
        self.total = 0
        self.idle_in_a_row = 0

    def passed(self, routine: str, outcome: Outcome) -> None:
        """Note a pass of *routine*."""
        if self._first:
            self._first.discard(routine)
            self._begin_round(perf_counter())
            return
        if routine not in self._core:
            return
        self._idle = self._idle and (not outcome.progressed or outcome.precaution)
        self._missing.discard(routine)
        if not self._missing:
            self._end_round()

    def _end_round(self) -> None:
        now = perf_counter()
        self._on_round(now - self._started)
        self.total += 1
        self.idle_in_a_row = self.idle_in_a_row + 1 if self._idle else 0
        self._begin_round(now)
        reached = self.idle_in_a_row if self._only_idle else self.total
        if reached >= self._limit > 0:
            self._on_limit()

    def _begin_round(self, now: float) -> None:
        self._missing, self._idle, self._started = set(self._core), True, now
