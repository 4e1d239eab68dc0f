"""Finds what nobody reported: changes by users, the API server, triggerers and other schedulers."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.store.running import fingerprints

if TYPE_CHECKING:
    from async_scheduler.plans.cache import Plans
    from async_scheduler.routines.redesigned.dirty import DirtyRuns


class Sweep:
    """Compares a fingerprint of each running run with the one before and marks the runs that changed.

    Reads only. All runs are marked every *everything_after* seconds, whatever their fingerprint: the answer
    to whatever a fingerprint cannot show, such as a change in a previous run that has ended.
    """

    name = "sweep"

    def __init__(self, sessions: Sessions, dirty: DirtyRuns, plans: Plans, everything_after: float) -> None:
        self._sessions = sessions
        self._dirty = dirty
        self._plans = plans
        self._everything_after = everything_after
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._last_everything = monotonic()

    async def run_once(self) -> Outcome:
        """Mark what changed since the last pass; report how many runs."""
        looked = self._dirty.before_looking()
        async with transaction(self._sessions) as tx:
            found = await fingerprints(tx.session)
            await self._plans.revalidate(tx.session)
        changed = [run for run, seen in found.items() if self._seen.get(run) != seen]
        if monotonic() - self._last_everything >= self._everything_after:
            self._last_everything = monotonic()
            changed = list(found)
        self._seen = found
        marked = self._dirty.see(found, looked) + self._dirty.mark(changed)
        return Outcome({"running": len(found), "marked": marked}, progressed=marked > 0)
