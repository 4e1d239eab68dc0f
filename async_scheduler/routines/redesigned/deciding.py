"""Decides about runs that were read, whether or not their rows are locked meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cachetools import LRUCache

from async_scheduler.routines.redesigned.layout import Layouts
from async_scheduler.routines.redesigned.next_visits import put_off_large
from async_scheduler.routines.redesigned.unusual import is_unusual
from async_scheduler.routines.redesigned.visiting import Visited, parts_of, visit
from async_scheduler.routines.redesigned.wide_maps import hold_back
from async_scheduler.store.running import ClaimedRun, unverified_runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.plans.cache import CompiledDag, Plans
    from async_scheduler.routines.redesigned.passes import Pass
    from async_scheduler.store.instances import PackedStates

VERIFIED_KEPT = 20_000
"""Runs that are known to fit the latest dag version; any other is asked for again. Nobody says when another
scheduler has ended one."""


class Deciding:
    """Sorts runs and decides about those that are decided here; remembers what it has learnt of them.

    :param ahead: how many instances of one task of a run are scheduled at a time. With None all are, and no
        run is put off: nobody waits for another's.
    """

    def __init__(self, plans: Plans, ahead: int | None) -> None:
        self._plans = plans
        self._ahead = ahead
        self._verified: LRUCache[int, UUID] = LRUCache(VERIFIED_KEPT)
        self._layouts = Layouts()

    async def decide(
        self,
        session: AsyncSession,
        runs: Sequence[ClaimedRun],
        done: Pass,
        seen: Mapping[int, PackedStates] | None = None,
    ) -> list[Visited]:
        """Decide about *runs* as of the pass *done*, which is told of those that are not decided now.

        :param seen: the states of their task instances, where they were read together with the runs.
        """
        visited: list[Visited] = []
        for part in parts_of(await self._sort(session, runs, done)):
            # What was read already is decided without a wait, in which the loop would get its turn.
            await asyncio.sleep(0)
            some, strange = await visit(session, part, done.now, self._layouts, seen)
            visited += some
            done.handed_over += strange
        if self._ahead is None:
            return visited
        visited = put_off_large(visited, done)
        for one in visited:
            held_back = hold_back(one, self._ahead)
            (done.held_back.add if held_back else done.held_back.discard)(one.run.id)
        return visited

    async def _sort(
        self, session: AsyncSession, runs: Sequence[ClaimedRun], done: Pass
    ) -> list[tuple[ClaimedRun, CompiledDag]]:
        """Return the runs decided here; the others are handed over or wait for their plan."""
        unverified = await self._unverified(session, runs)
        ours = []
        for run in runs:
            compiled = self._plans.get(run.version)
            if compiled is None and not self._plans.is_absent(run.version):
                done.unplanned.append(run)
            elif compiled is None or run.id in unverified or is_unusual(run, compiled, done.now):
                done.handed_over.append(run)
            else:
                ours.append((run, compiled))
        return ours

    async def _unverified(self, session: AsyncSession, runs: Sequence[ClaimedRun]) -> set[int]:
        """Return the runs that Airflow has to check against a new dag version (``_verify_integrity...``)."""
        unsure = [
            run for run in runs if not run.bundle_version and self._verified.get(run.id) != run.latest_version
        ]
        if not unsure:
            return set()
        unverified = await unverified_runs(session, [run.id for run in unsure])
        for run in unsure:
            if run.id not in unverified and run.latest_version is not None:
                self._verified[run.id] = run.latest_version
        return unverified

    def doubt(self, run: int) -> None:
        """Check the dag version of *run* again."""
        self._verified.pop(run, None)

    def forget(self, run: int) -> None:
        """Drop what is remembered of a run that has ended."""
        self.doubt(run)
        self._layouts.forget(run)
