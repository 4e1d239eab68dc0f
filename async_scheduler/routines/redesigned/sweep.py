"""Finds what nobody reported: changes by users, the API server, triggerers and other schedulers."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

from airflow._shared.timezones import timezone

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.routines.redesigned.peers import Peers
from async_scheduler.store.jobs import load_alive
from async_scheduler.store.running import Seen, fingerprints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.plans.cache import Plans
    from async_scheduler.routines.redesigned.dirty import DirtyRuns

PEERS_EVERY = 5.0
"""Seconds between two looks at which other schedulers are alive."""


class Sweep:
    """Compares a fingerprint of each running run with the one before and marks the runs that changed.

    Reads only. All runs are marked every *everything_after* seconds, whatever their fingerprint: the answer
    to whatever a fingerprint cannot show, such as a change in a previous run that has ended. So they are when
    another scheduler is gone.

    A change in a run of another live scheduler is that one's to find. Only when it has not examined the run
    until the next sweep is the run marked here.

    :param alive_within: seconds since its last heartbeat for which another scheduler counts as alive.
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
    ) -> None:
        self._sessions = sessions
        self._dirty = dirty
        self._plans = plans
        self._everything_after = everything_after
        self._peers = peers or Peers()
        self._alive_within = timedelta(seconds=alive_within)
        self._peers_due = 0.0
        self._seen: Mapping[int, Seen] = {}
        self._left: dict[int, datetime | None] = {}
        """Runs of others that have changed, and when they had been examined last."""
        self._last_everything = monotonic()

    async def run_once(self) -> Outcome:
        """Mark what changed since the last pass; report how many runs."""
        looked = self._dirty.before_looking()
        async with transaction(self._sessions) as tx:
            one_gone = await self._look_for_peers(tx.session)
            found = await fingerprints(tx.session)
            await self._plans.revalidate(tx.session)
        changed = list(self._changed(found))
        if one_gone or monotonic() - self._last_everything >= self._everything_after:
            self._last_everything = monotonic()
            changed = list(found)
        self._seen = found
        marked = self._dirty.see(found, looked) + self._dirty.mark(changed)
        return Outcome({"running": len(found), "marked": marked}, progressed=marked > 0)

    async def _look_for_peers(self, session: AsyncSession) -> bool:
        """Learn from time to time which schedulers are alive; return whether one is gone."""
        if monotonic() < self._peers_due:
            return False
        alive = await load_alive(session, timezone.utcnow() - self._alive_within)
        self._peers_due = monotonic() + PEERS_EVERY
        return self._peers.see(alive)

    def _changed(self, found: Mapping[int, Seen]) -> Iterator[int]:
        """Yield the runs to look at; note those that are left to others once more."""
        left, self._left = self._left, {}
        for run, seen in found.items():
            before = self._seen.get(run)
            if run in left and left[run] == seen.examined_at:
                yield run
            elif before is None or before.fingerprint != seen.fingerprint:
                if self._peers.has(seen.examined_by):
                    self._left[run] = seen.examined_at
                else:
                    yield run
