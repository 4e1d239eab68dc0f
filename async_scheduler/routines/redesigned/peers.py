"""The other schedulers on the database, and what is left to them so that a run stays with one of them."""

from __future__ import annotations

from math import inf
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable
    from uuid import UUID

    from async_scheduler.decide.admit import Candidate

T = TypeVar("T")

LEFT_FOR = 1.0
"""Seconds for which task instances are left to the scheduler that has their run; longer, and it is late."""
NOT_SPARED_FOR = 10.0
"""Seconds for which nothing is left to a scheduler that was late: it is full, busy, paused or dead."""
STARTS_LEFT_FOR = 0.6
"""Seconds for which a run that may start is left to whom it is dealt: twice what a probe needs."""
NO_STARTS_FOR = 3.0
"""Seconds for which no new runs are dealt to a scheduler that did not start its own in time."""
TURN = 1.0
"""So many times as long as a section took, others find it free. Without such turns they keep finding it taken
and task instances wait; with longer turns they wait too."""


class Patience:
    """Remembers since when things have been left to others. No clock but this process's own counts."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: dict[Hashable, float] = {}

    def late(self, things: Iterable[T]) -> set[T]:
        """Return those of *things* that have been left for too long."""
        before = self._clock() - self._seconds
        return {one for one in things if self._since.get(one, inf) <= before}

    def leave(self, things: Iterable[Hashable]) -> None:
        """Note that *things*, and nothing else, are left now."""
        now = self._clock()
        self._since = {one: self._since.get(one, now) for one in things}

    def ends_in(self) -> float | None:
        """Return the seconds until the first thing left is left for too long, None if nothing is."""
        if not self._since:
            return None
        return max(0.0, min(self._since.values()) + self._seconds - self._clock())


class Peers:
    """Which other schedulers are alive, and which of them are not to be waited for now.

    Whether anything is left to another scheduler is a matter of speed only: whatever is left may be taken
    at any time. Belongs to one event loop.

    :param job: the id of this scheduler's job.
    """

    def __init__(self, job: int | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._job = job
        self._clock = clock
        self._late: dict[int | None, float] = {}
        self._slow_starters: dict[int | None, float] = {}
        self.others: frozenset[int] = frozenset()
        """The job ids of the other schedulers that were alive when the database was asked last."""

    def see(self, alive: Collection[int]) -> bool:
        """Learn which schedulers are alive; return whether one is gone."""
        before, self.others = self.others, frozenset(alive) - {self._job}
        return bool(before - self.others)

    def has(self, owner: int | None) -> bool:
        """Whether a run examined last by the job *owner* is another live scheduler's."""
        return owner in self.others

    def spares(self, owner: int | None) -> bool:
        """Whether what belongs to the job *owner* is left to it."""
        return owner in self.others and self._clock() >= self._late.get(owner, 0.0)

    def note_late(self, owners: Iterable[int | None]) -> None:
        """Leave nothing more to *owners* for a while."""
        until = self._clock() + NOT_SPARED_FOR
        self._late = {owner: end for owner, end in self._late.items() if owner in self.others}
        self._late.update(dict.fromkeys(owners, until))

    def dealt_to(self, run: int) -> int | None:
        """Return the other scheduler that the run with this id is dealt to, None if it is dealt to this one.

        Each scheduler gets as many as any other; who did not fetch its runs lately gets none for a while.
        """
        if not self.others or self._job is None:
            return None
        now = self._clock()
        there = [other for other in self.others if now >= self._slow_starters.get(other, 0.0)]
        everyone = sorted((*there, self._job))
        chosen = everyone[run % len(everyone)]
        return None if chosen == self._job else chosen

    def note_slow_starter(self, others: Iterable[int | None]) -> None:
        """Deal no runs to *others* for a while."""
        until = self._clock() + NO_STARTS_FOR
        self._slow_starters = {one: end for one, end in self._slow_starters.items() if one in self.others}
        self._slow_starters.update(dict.fromkeys(others, until))


class Courtesy:
    """What critical sections leave to other schedulers: task instances of their runs, and a turn."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._patience = Patience(LEFT_FOR)
        self._not_before = 0.0

    def spare(self, admitted: Iterable[Candidate]) -> set[UUID]:
        """Return the ids of those of *admitted* to leave. Who let one wait for too long is spared none."""
        owners = {one.id: one.owner for one in admitted if self._peers.spares(one.owner)}
        self._peers.note_late({owners[one] for one in self._patience.late(owners)})
        return {one for one, owner in owners.items() if self._peers.spares(owner)}

    def after_section(self, spared: set[UUID], seconds: float) -> None:
        """Note what a section that took so long has left. Others get a turn of that length."""
        self._patience.leave(spared)
        self._not_before = perf_counter() + TURN * seconds if self._peers.others else 0.0

    def turn_in(self) -> float:
        """Return the seconds until the next section may begin, not above zero if it may now."""
        return self._not_before - perf_counter()

    def look_again_in(self) -> float | None:
        """Return the seconds until something that was left has waited for too long, None if nothing was."""
        return self._patience.ends_in()
