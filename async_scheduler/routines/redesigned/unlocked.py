"""Visits that hold no lock while they read and decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_scheduler.routines.redesigned.writing import stays
from async_scheduler.store.unlocked import Written, schedule_unless_changed, see_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.decide.evaluate import Outcome
    from async_scheduler.routines.redesigned.deciding import Deciding
    from async_scheduler.routines.redesigned.passes import Pass
    from async_scheduler.routines.redesigned.peers import Peers
    from async_scheduler.routines.redesigned.visiting import Visited
    from async_scheduler.store.unlocked import SeenRun


class UnlockedVisits:
    """Reads runs, decides about them, and writes what becomes scheduled if nobody has changed them meanwhile.

    Two statements, each committed by itself, where a visit under a lock takes seven round trips; and the rows
    are locked within the second one only. Whatever else is decided – an end, a skip, an expansion – is left
    to a visit under a lock, and so is a run that somebody has changed or locked in between. PostgreSQL only.

    :param on_scheduled: called as soon as task instances are scheduled, with others of the pass still to do.
    """

    def __init__(self, deciding: Deciding, peers: Peers, job: int, on_scheduled: Callable[[], None]) -> None:
        self._deciding = deciding
        self._peers = peers
        self._job = job
        self._on_scheduled = on_scheduled

    async def visit(self, session: AsyncSession, done: Pass) -> list[int]:
        """Visit the runs of *done*; return those that have to be visited under a lock.

        *session* commits each statement by itself.
        """
        seen = await see_runs(session, done.ids)
        done.locked += [run for run in done.ids if run not in seen]
        packed = {run: one.packed for run, one in seen.items() if one.packed is not None}
        visited = await self._deciding.decide(session, [one.run for one in seen.values()], done, packed)
        plain = [one for one in visited if _only_schedules(one.outcome)]
        written = await self._write(session, plain, seen, done) if plain else Written(frozenset(), 0)
        done.visited += [one for one in plain if one.run.id in written.runs]
        return [one.run.id for one in visited if one.run.id not in written.runs]

    async def _write(
        self, session: AsyncSession, plain: Sequence[Visited], seen: dict[int, SeenRun], done: Pass
    ) -> Written:
        versions = {one.run.id: seen[one.run.id].version for one in plain}
        ready = [(instance, one.run.id) for one in plain for instance in one.ids_at(one.outcome.scheduled)]
        kept = [one.run.id for one in plain if stays(one, self._peers)]
        written = await schedule_unless_changed(session, versions, ready, self._job, done.now, kept)
        expected = sum(run in written.runs for _, run in ready)
        done.scheduled += written.scheduled
        done.complete &= written.scheduled == expected
        if written.scheduled:
            self._on_scheduled()
            done.announced = written.scheduled
        return written


def _only_schedules(outcome: Outcome) -> bool:
    """Whether nothing is decided but which task instances become scheduled, if any."""
    return not (outcome.emptied or outcome.flagged or outcome.expanded or outcome.verdict)
