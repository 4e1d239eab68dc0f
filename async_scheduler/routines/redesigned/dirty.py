"""Which runs have to be looked at, and when."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from datetime import datetime

LONGEST_APART = timedelta(seconds=10)
"""No run is kept apart for so long: a later time was noted before the clock was set back."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a run between two visits.

    ``finished`` is how many of its task instances had finished: when it changes, the next run of a dag
    whose tasks depend on the past (``has_past``) has to be looked at too.
    """

    dag_id: str
    logical_date: datetime | None
    finished: int
    has_past: bool


@dataclass(frozen=True, slots=True)
class Looked:
    """The runs that were known, and those that had been missed, when the database was asked."""

    known: frozenset[int]
    missed: frozenset[int]


class DirtyRuns:
    """Runs by id, first marked first served. Belongs to one event loop; nothing here blocks.

    A run that was taken is not given to anybody else before it is released, however often it is marked. One
    that is kept apart, as its visit takes long, is taken with no other, and not before the time given.
    """

    def __init__(self) -> None:
        self._marked: dict[int, None] = {}
        self._taken: set[int] = set()
        self._apart: dict[int, datetime] = {}
        self._due: list[tuple[datetime, int]] = []
        self._due_of: dict[int, datetime] = {}
        self._known: dict[int, Known] = {}
        self._missed: set[int] = set()
        self._room: set[str] = set()
        self._new_runs = False

    def __len__(self) -> int:
        return len(self._marked)

    def __contains__(self, run: int) -> bool:
        return run in self._marked

    def mark(self, runs: Iterable[int]) -> int:
        """Ask for a visit to each of *runs*; return how many were not asked for already."""
        before = len(self._marked)
        for run in runs:
            self._marked.setdefault(run, None)
        return len(self._marked) - before

    def mark_at(self, run: int, when: datetime) -> None:
        """Ask for a visit to *run* at *when*, unless one is asked for earlier."""
        earlier = self._due_of.get(run)
        if earlier is None or when < earlier:
            self._due_of[run] = when
            heapq.heappush(self._due, (when, run))

    def take(self, most: int, now: datetime) -> list[int]:
        """Return up to *most* runs to visit now, to be released; they are no longer asked for."""
        while self._due and self._due[0][0] <= now:
            when, run = heapq.heappop(self._due)
            if self._due_of.get(run) == when:
                del self._due_of[run]
                self.mark([run])
        free = [run for run in self._free() if self._rests_until(run, now) <= now]
        if free and free[0] in self._apart:
            taken = free[:1]
        else:
            taken = list(islice((run for run in free if run not in self._apart), most))
        for run in taken:
            del self._marked[run]
        self._taken.update(taken)
        return taken

    def _free(self) -> Iterator[int]:
        return (run for run in self._marked if run not in self._taken)

    def _rests_until(self, run: int, now: datetime) -> datetime:
        until = self._apart.get(run, now)
        return until if until - now <= LONGEST_APART else now

    def keep_apart(self, run: int, until: datetime) -> None:
        """Let *run* be taken alone from now on, not before *until*. It ends when the run is forgotten."""
        self._apart[run] = until

    def release(self, runs: Iterable[int]) -> None:
        """Give up *runs*, taken before: the next to take runs may get them."""
        self._taken.difference_update(runs)

    def miss(self, runs: Iterable[int]) -> None:
        """Note that *runs* could not be claimed: locked, or no longer running. See :meth:`see`."""
        self._missed.update(runs)

    def before_looking(self) -> Looked:
        """Return what :meth:`see` may judge by the answer to a question asked after this."""
        return Looked(frozenset(self._known), frozenset(self._missed))

    def see(self, running: Collection[int], looked: Looked, *, whole: bool = True) -> int:
        """Learn which runs can be claimed; mark those missed and those left behind; return how many.

        What is known of runs that ended or were paused is dropped; runs that may have waited for such a one
        are marked. Nobody else tells of it: a user ended it, or another scheduler.

        :param whole: whether those are all; else nothing is learnt of any other run.
        """
        found = looked.missed.intersection(running)
        self._missed -= looked.missed if whole else found
        gone = looked.known.difference(running) if whole else frozenset()
        found |= self._behind(gone).intersection(running)
        for run in gone:
            self._known.pop(run, None)
            self._due_of.pop(run, None)
            self._apart.pop(run, None)
        return self.mark(found)

    def due_in(self, now: datetime) -> float | None:
        """Return the seconds until a run can be taken, 0 if one can, None if nothing is asked for.

        Those taken already do not count: whoever releases them asks again.
        """
        times = []
        for run in self._free():
            until = self._rests_until(run, now)
            if until <= now:
                return 0.0
            times.append(until)
        while self._due and self._due_of.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
        if self._due:
            times.append(self._due[0][0])
        return max(0.0, (min(times) - now).total_seconds()) if times else None

    def remember(self, run: int, known: Known) -> bool:
        """Note what a visit saw; return whether the number of finished instances is another than before."""
        before = self._known.get(run)
        self._known[run] = known
        return before is None or before.finished != known.finished

    def knows(self, run: int) -> bool:
        """Whether a visit here has seen *run*, and no sweep that it is gone."""
        return run in self._known

    def will_visit(self, run: int) -> bool:
        """Whether a visit to *run* here is asked for or under way."""
        return run in self._marked or run in self._taken

    def following(self, run: int) -> int | None:
        """Return the run of the same dag that comes next after *run*, if it was visited before."""
        this = self._known[run]
        if this.logical_date is None:
            return None
        later = [
            (known.logical_date, other)
            for other, known in self._known.items()
            if known.dag_id == this.dag_id
            and known.logical_date is not None
            and known.logical_date > this.logical_date
        ]
        return min(later)[1] if later else None

    def _behind(self, gone: Iterable[int]) -> set[int]:
        """Return the known runs that come after one of *gone* in a dag whose tasks depend on the past."""
        since: dict[str, datetime] = {}
        for run in gone:
            known = self._known.get(run)
            if known is not None and known.has_past and known.logical_date is not None:
                since[known.dag_id] = min(known.logical_date, since.get(known.dag_id, known.logical_date))
        if not since:
            return set()
        return {
            run
            for run, known in self._known.items()
            if known.dag_id in since
            and known.logical_date is not None
            and known.logical_date > since[known.dag_id]
        }

    def note_room(self, *dag_ids: str) -> None:
        """Note that runs of these dags have ended here, so that others may start."""
        self._room.update(dag_ids)

    def take_room(self) -> set[str]:
        """Return the dags noted since the last call."""
        room, self._room = self._room, set()
        return room

    def note_new_runs(self) -> None:
        """Note that there are new queued runs, of whatever dags."""
        self._new_runs = True

    def take_new_runs(self) -> bool:
        """Return whether that was noted since the last call."""
        new_runs, self._new_runs = self._new_runs, False
        return new_runs

    def forget(self, run: int) -> None:
        """Drop everything about a run that has ended."""
        self._known.pop(run, None)
        self._due_of.pop(run, None)
        self._marked.pop(run, None)
        self._apart.pop(run, None)
