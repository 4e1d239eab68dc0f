"""Visits that hold no lock while they read and decide."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from async_scheduler.database.transaction import finish, transaction
from async_scheduler.routines.redesigned.ending import end_unlocked, ends_by_itself
from async_scheduler.routines.redesigned.writing import stays
from async_scheduler.store.unlocked import schedule_unless_changed, see_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.database.fence import Fence
    from async_scheduler.database.transaction import Sessions, Transaction
    from async_scheduler.decide.evaluate import Outcome
    from async_scheduler.routines.redesigned.deciding import Deciding
    from async_scheduler.routines.redesigned.passes import Pass
    from async_scheduler.routines.redesigned.peers import Peers
    from async_scheduler.routines.redesigned.visiting import Visited
    from async_scheduler.store.unlocked import SeenRun


class UnlockedVisits:
    """Reads runs, decides about them, and writes what becomes scheduled if nobody has changed them meanwhile.

    Two statements, each committed by itself, where a visit under a lock takes seven round trips; and the rows
    are locked within the second one only. So is a run ended that is over, by one statement for all of a pass.
    Whatever else is decided – a skip, an expansion, an end that pauses its dag – is left to a visit under a
    lock, and so is a run of which somebody has changed or locked something in between. PostgreSQL only.

    :param sessions: commit each statement by themselves.
    :param on_scheduled: called as soon as task instances are, or may be, scheduled, with others of the pass
        still to do.
    """

    def __init__(
        self,
        sessions: Sessions,
        deciding: Deciding,
        peers: Peers,
        fence: Fence,
        on_scheduled: Callable[[], None],
    ) -> None:
        self.sessions = sessions
        self._deciding = deciding
        self._peers = peers
        self._fence = fence
        self._on_scheduled = on_scheduled

    async def visit(self, done: Pass) -> list[int]:
        """Visit the runs of *done*; return those that have to be visited under a lock.

        :raises SchedulerFenced: when others have declared this scheduler dead; nothing is written then.
        """
        async with transaction(self.sessions) as tx:
            return await self._visit(tx, done)

    async def _visit(self, tx: Transaction, done: Pass) -> list[int]:
        session = tx.session
        seen = await see_runs(session, done.ids)
        done.locked += [run for run in done.ids if run not in seen]
        packed = {run: one.packed for run, one in seen.items() if one.packed is not None}
        visited = await self._deciding.decide(session, [one.run for one in seen.values()], done, packed)
        plain = [one for one in visited if _only_schedules(one.outcome)]
        whole = await self._write(session, plain, seen, done) if plain else set()
        over = [one for one in visited if ends_by_itself(one)]
        if over:
            whole |= await self._end(tx, over, seen, done)
        done.visited += [one for one in visited if one.run.id in whole]
        return [one.run.id for one in visited if one.run.id not in whole]

    async def _end(
        self, tx: Transaction, over: Sequence[Visited], seen: dict[int, SeenRun], done: Pass
    ) -> set[int]:
        """Return the runs that ended."""
        versions = {one.run.id: seen[one.run.id].version for one in over}
        # To its end also when cancelled: nobody else would tell of what has ended.
        ended = await finish(end_unlocked(tx, over, versions, self._fence, done.now))
        done.ended += [one.run for one in ended]
        return {one.run.id for one in ended}

    async def _write(
        self, session: AsyncSession, plain: Sequence[Visited], seen: dict[int, SeenRun], done: Pass
    ) -> set[int]:
        """Return the runs of which everything was written."""
        ready = [(instance, one.run.id) for one in plain for instance in one.ids_at(one.outcome.scheduled)]
        kept = [one.run.id for one in plain if stays(one, self._peers)]
        versions = {one.run.id: seen[one.run.id].version for one in plain}
        try:
            with self._fence.looking() as look:
                stamped = await schedule_unless_changed(
                    session, versions, ready, self._fence.job, done.now, kept
                )
                look.state = stamped.job_state
        except BaseException:
            # The statement may have been committed, and nobody else would tell.
            self._on_scheduled()
            raise
        done.scheduled = done.announced = sum(stamped.scheduled.values())
        if done.announced:
            self._on_scheduled()
        wanted = Counter(run for _, run in ready)
        return {run for run, count in stamped.scheduled.items() if count == wanted[run]}


def _only_schedules(outcome: Outcome) -> bool:
    """Whether nothing is decided but which task instances become scheduled, if any."""
    return not (outcome.emptied or outcome.flagged or outcome.expanded or outcome.verdict)
