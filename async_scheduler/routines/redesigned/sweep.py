"""Finds what nobody reported: changes by users, the API server, triggerers and other schedulers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from airflow._shared.timezones import timezone

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.routines.redesigned.peers import Peers
from async_scheduler.store.jobs import load_alive
from async_scheduler.store.running import Seen, fingerprints, last_examined

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.plans.cache import Plans
    from async_scheduler.routines.redesigned.dirty import DirtyRuns

PEERS_EVERY = 5.0
"""Seconds between two looks at which other schedulers are alive; sooner if the probe sees one come or go."""
OTHERS_EVERY = 3
"""One of so many sweeps looks at the runs of schedulers that are at work too; they do so each time."""
LEFT_FOR_LOOKS = 2
"""So often a change is seen and left to a scheduler that examines other runs meanwhile: it has much to do."""

LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Left(NamedTuple):
    """A changed run that is left: when it had been examined last, when it was seen, and how often."""

    examined_at: datetime | None
    seen_at: datetime
    looks: int

    def is_over(self, seen: Seen, *, here: bool) -> bool:
        """Whether it was examined since. A visit here must have begun after; others' clocks say nothing."""
        if not here:
            return seen.examined_at != self.examined_at
        return seen.examined_at is not None and seen.examined_at > self.seen_at


class Sweep:
    """Compares a fingerprint of each running run with the one before and marks the runs that changed.

    Reads only. All runs are marked every *everything_after* seconds, whatever their fingerprint: the answer
    to whatever a fingerprint cannot show, such as a change in a previous run that has ended. So they are when
    another scheduler is gone.

    A run that was examined between two sweeps, or here before its first, has events that bring further
    visits: when it has changed, it is marked only if no visit has begun until the next sweep: up to two
    intervals after the change. So it is with one whose first visit is under way here, and with one that
    nobody has examined yet where all other schedulers share by these rules: one may have just started it.

    A change in a run of another live scheduler is that one's to find. While it is at work only some sweeps
    look at its runs. One is marked here when the other has examined none of its runs until the next look, or
    not this one for some.

    While no run is running it rests, until the probe sees one.

    :param alive_within: seconds since its last heartbeat for which another scheduler counts as alive.
    :param rest: seconds between two sweeps meanwhile; None where there is no probe.
    """

    name = "sweep"

    def __init__(
        self,
        sessions: Sessions,
        dirty: DirtyRuns,
        plans: Plans,
        everything_after: float,
        peers: Peers | None = None,
        alive_within: float = 15.0,
        rest: float | None = None,
    ) -> None:
        self._sessions = sessions
        self._dirty = dirty
        self._plans = plans
        self._everything_after = everything_after
        self._peers = peers or Peers()
        self._alive_within = timedelta(seconds=alive_within)
        self._peers_due = 0.0
        self._seen: dict[int, Seen] = {}
        self._sweeps = -1
        self._left: dict[int, Left] = {}
        self._rest = rest
        self.rests = False
        """Whether no run was running at the last sweep, so that the next one is far off."""
        self._examined: dict[int, datetime] = {}
        """When each other scheduler had examined a run last."""
        self._last_everything = monotonic()

    async def run_once(self) -> Outcome:
        """Mark what changed since the last pass; report how many runs."""
        looked = self._dirty.before_looking()
        async with transaction(self._sessions) as tx:
            one_gone = await self._look_for_peers(tx.session)
            everything = one_gone or monotonic() - self._last_everything >= self._everything_after
            at_work = await self._at_work(tx.session)
            left_out = frozenset() if everything else self._left_out(at_work)
            found = await fingerprints(tx.session, left_out)
            looked_at = timezone.utcnow()
            await self._plans.revalidate(tx.session)
        if not left_out:
            self._seen = {run: self._seen[run] for run in found.keys() & self._seen.keys()}
        changed = list(self._changed(found, looked_at, at_work))
        if one_gone:
            changed = list(found)
        self._seen |= found
        marked = self._dirty.see(found, looked, whole=not left_out) + self._dirty.mark(changed)
        # What is left may still have to be done here: an idle scheduler must not end before it is known.
        news = bool(marked or self._left)
        if everything:
            self._last_everything = monotonic()
            marked += self._dirty.mark(found)
        self.rests = self._rest is not None and not found and not left_out
        return Outcome(
            {"running": len(found), "marked": marked},
            progressed=news or marked > 0,
            precaution=not news,
            due_in=self._rest if self.rests else None,
        )

    def _left_out(self, at_work: frozenset[int]) -> frozenset[int]:
        """Return the schedulers whose runs this sweep does not look at."""
        spared = self._peers.spared() & at_work
        self._sweeps = self._sweeps + 1 if spared else -1
        return spared if self._sweeps % OTHERS_EVERY else frozenset()

    async def _look_for_peers(self, session: AsyncSession) -> bool:
        """Learn from time to time which schedulers are alive; return whether one is gone."""
        if monotonic() < self._peers_due and not self._peers.in_doubt:
            return False
        alive = await load_alive(session, timezone.utcnow() - self._alive_within)
        self._peers_due = monotonic() + PEERS_EVERY
        return self._peers.see(alive.everybody, alive.fellows)

    def _changed(
        self, found: Mapping[int, Seen], looked_at: datetime, at_work: Collection[int]
    ) -> Iterator[int]:
        """Yield the runs to look at; note those that are left, to others or to the events of their own."""
        left = self._left
        self._left = {run: one for run, one in left.items() if run in self._seen and run not in found}
        for run, seen in found.items():
            before, waiting = self._seen.get(run), left.get(run)
            here = not self._peers.has(seen.examined_by)
            if waiting is not None and not waiting.is_over(seen, here=here):
                looks = waiting.looks + 1
                leave = not here and seen.examined_by in at_work and looks <= LEFT_FOR_LOOKS
            elif before is None or before.fingerprint != seen.fingerprint:
                looks, leave = 1, not here or self._is_lively(run, before, seen)
            else:
                continue
            if leave:
                self._left[run] = Left(seen.examined_at, looked_at, looks)
            else:
                yield run

    def _is_lively(self, run: int, before: Seen | None, now: Seen) -> bool:
        """Whether a run was examined since the last sweep: its own events bring visits.

        So does its start. One that nobody has examined since is for the scheduler that has started it.
        """
        if before is not None:
            return before.examined_at != now.examined_at
        started_elsewhere = now.examined_at is None and self._peers.only_fellows
        return started_elsewhere or self._dirty.knows(run) or self._dirty.will_visit(run)

    async def _at_work(self, session: AsyncSession) -> frozenset[int]:
        """Return the other schedulers that have examined a run since the last sweep."""
        if not self._peers.others:
            return frozenset()
        before, self._examined = self._examined, await last_examined(session, self._peers.others)
        return frozenset(owner for owner, at in self._examined.items() if at > before.get(owner, LONG_AGO))
