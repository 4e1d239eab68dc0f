"""Starts queued runs, a fair window over all dags at a time."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

from airflow._shared.timezones import timezone
from airflow.listeners.listener import get_listener_manager
from airflow.models.dagrun import DagRun
from sqlalchemy import select

from async_scheduler.database.transaction import Sessions, Transaction, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.errors import LostRace
from async_scheduler.routines.redesigned.peers import (
    STARTS_LEFT_FOR,
    STARTS_LOOK_EVERY,
    Patience,
    Peers,
)
from async_scheduler.routines.redesigned.started import (
    NO_STARTS,
    Planned,
    Starts,
    announce,
    report_delays,
)
from async_scheduler.routines.redesigned.taken import Taken
from async_scheduler.store.queued import (
    ALL_RUNS,
    Hand,
    StartableRun,
    claim_startable,
    lock_backfills,
    see_queued,
    start_runs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from async_scheduler.plans.cache import Plans
    from async_scheduler.routines.redesigned.dirty import DirtyRuns

log = logging.getLogger(__name__)

LOOK_AT_ALL_EVERY = 1.0
"""Seconds between two looks at all queued runs while runs end here and others take their places, and none are
new: in between it is asked only what the dags have whose run has ended. What else may start, because a user
ended a run or raised a limit, waits so long at most."""


class StartDagRuns:
    """Mirrors ``SchedulerJobRunner._start_queued_dagruns``.

    A pass after the end of a run looks only at the queued runs of its dag, as long as it is not time to look
    at all of them.

    Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED for one window, ``backfill`` UPDATE SKIP LOCKED where a run
    belongs to one, until the commit. Listeners are notified after it.

    :param window: how many runs one pass starts at most.
    :param on_none_queued: called when no run waits for a start, until the probe sees one.
    :param on_started: called as soon as runs are started, with more of the pass still to do.
    """

    name = "start"

    def __init__(
        self,
        sessions: Sessions,
        dirty: DirtyRuns,
        plans: Plans,
        window: int,
        peers: Peers | None = None,
        on_none_queued: Callable[[], None] = lambda: None,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        self._sessions = sessions
        self._dirty = dirty
        self._plans = plans
        self._window = window
        self._on_none_queued = on_none_queued
        self._on_started = on_started
        self._peers = peers or Peers()
        self._patience = Patience(STARTS_LEFT_FOR)
        self._now = timezone.utcnow()
        self._looked = -inf
        self._looked_at_all = -inf
        self._busy = False
        """Whether runs that ended here have been followed by others since."""
        self._waits = True
        """Whether queued runs were seen to wait."""
        self._taken = Taken(lambda: self._patience.clock())
        self._kept = Patience(STARTS_LEFT_FOR, lambda: self._patience.clock())
        self._room: set[str] = set()
        self._unreadable: set[str] = set()
        """The dags that no run could be started of: each is named once while that lasts."""

    async def run_once(self) -> Outcome:
        """Start what may start; report how many runs."""
        self._room, new_runs = self._dirty.take_room(), self._dirty.take_new_runs()
        all_in = self._looked_at_all + LOOK_AT_ALL_EVERY - self._patience.clock()
        if new_runs or all_in <= 0 or self._taken.is_due or not (self._room or self._busy):
            done, look_in = await self._look_at_all()
            self._busy = False
        else:
            done, look_in = await self._look_at_room(), all_in
            self._busy = (self._busy or bool(done.started)) and not (done.is_full or done.unplanned)
        self._keep_room(done)
        return Outcome(
            {"started": len(done.started)},
            progressed=bool(done.started),
            more=bool(done.unplanned) or done.is_full,
            due_in=_soonest(look_in, self._taken.again_in()),
        )

    async def _look_at_room(self) -> Starts:
        """Start what the dags have whose run has ended here."""
        if not self._room:
            return NO_STARTS
        done = await self._pass_of(None, asks=True)
        if done.taken:
            self._taken.note_more()
        return done

    def _keep_room(self, done: Starts) -> None:
        """Have those dags asked again whose next run may be locked, and may be dealt to another scheduler."""
        kept = set[str]()
        if done.taken and not self._peers.hand().is_all:
            without = self._room - {run.dag_id for run, _ in done.started}
            kept = without - self._kept.late(without)
        self._kept.leave(kept)
        self._dirty.note_room(*kept)

    async def _look_at_all(self) -> tuple[Starts, float | None]:
        """Start those in hand of all queued runs, and those of others if it is time to.

        Return what was started and the seconds after which to look again unasked.
        """
        hand = self._peers.hand()
        is_time = not hand.is_all and self._look_in() == 0.0
        done = await self._pass_of(hand, asks=not (is_time and self._waits))
        self._looked_at_all = self._patience.clock()
        look_in = None if hand.is_all or done.is_full or not self._waits else self._look_in()
        if look_in == 0.0:
            done, look_in = done.and_then(await self._pass_of(ALL_RUNS, asks=done.taken is None)), None
            self._looked = self._patience.clock()
        self._taken.note(bool(done.taken), progressed=bool(done.started))
        return done, _soonest(look_in, self._patience.ends_in())

    def _look_in(self) -> float:
        """Return the seconds until the runs that are dealt to others are looked at too."""
        left = self._patience.ends_in()
        if left == 0.0:
            return 0.0
        return max(0.0, self._looked + STARTS_LOOK_EVERY - self._patience.clock())

    async def _pass_of(self, hand: Hand | None, *, asks: bool) -> Starts:
        """Start runs in *hand*, else of the dags with room.

        :param asks: whether to ask, where none in hand could be claimed, if any waits and may start.
        """
        done = await self._pass(hand, asks)
        if done.unplanned:
            # A dag seen for the first time: read outside of the transaction, then look again.
            await self._plans.fetch(self._sessions, done.unplanned)
            done = await self._pass(hand, asks)
        # Here, not after a second transaction that may fail.
        self._dirty.mark(run.id for run, _ in done.started)
        if done.started:
            self._on_started()
        report_delays(done.started, self._now)
        return done

    async def _pass(self, hand: Hand | None, asks: bool) -> Starts:
        """Do it in one transaction; start nothing while a dag version is not at hand."""
        async with transaction(self._sessions) as tx:
            claimed = await claim_startable(tx.session, self._window, hand, self._room)
            is_full = bool(claimed) and claimed[0].chosen >= self._window
            self._waits |= bool(claimed)
            taken: bool | None = None
            if claimed and hand in (None, self._peers.hand()):
                taken = len(claimed) < claimed[0].chosen
            elif asks:  # what others have locked of their own is theirs
                taken = await self._are_taken(tx, hand)
            left = self._left_to_others(claimed) if hand == ALL_RUNS else set[int]()
            claimed = [run for run in claimed if run.id not in left]
            unplanned = {run.version for run in claimed if run.version and self._lacks_plan(run)}
            if unplanned:
                return Starts([], unplanned, is_full, taken)
            if hand == ALL_RUNS:
                self._patience.leave(left)
            readable = self._readable(claimed, whole=hand == ALL_RUNS)
            allowed = await self._with_backfills(tx, readable)
            # Not before the claim: a run must not seem to overlap with the one whose place it takes.
            self._now = timezone.utcnow()
            await self._start(tx, allowed, self._now)
        # A window full of what is left to others, or cannot be started, would be found again.
        taken = taken if len(allowed) == len(readable) else True
        return Starts(allowed, set(), is_full and bool(allowed), taken)

    async def _are_taken(self, tx: Transaction, hand: Hand | None) -> bool:
        """Whether others have locked runs that may start here; learn whether any run waits at all."""
        own = self._peers.hand() if hand == ALL_RUNS else hand
        found = await see_queued(tx.session, own, self._room)
        self._waits = found.waits
        if not found.waits:
            self._patience.leave(())
            self._on_none_queued()
        return found.may_start

    def _left_to_others(self, claimed: Sequence[StartableRun]) -> set[int]:
        """Return the runs that other schedulers get first, which go on with what they start.

        The next run of a dag whose run has ended here is not made to wait.
        """
        new = [run.id for run in claimed if run.dag_id not in self._room]
        others = {run: other for run in new if (other := self._peers.dealt_to(run)) is not None}
        late = self._patience.late(others)
        self._peers.deal_none_to({others[run] for run in late})
        return others.keys() - late

    def _lacks_plan(self, run: StartableRun) -> bool:
        return self._plans.get(run.version) is None and not self._plans.is_absent(run.version)

    def _readable(self, claimed: Sequence[StartableRun], *, whole: bool) -> list[Planned]:
        """Return those whose dag can be read; name the other dags, each once."""
        readable, unreadable = [], set()
        for run in claimed:
            compiled = self._plans.get(run.version)
            if compiled is None:
                unreadable.add(run.dag_id)
            else:
                readable.append((run, compiled))
        for dag_id in sorted(unreadable - self._unreadable):
            log.error("DAG '%s' not found in serialized_dag table", dag_id)
        # A pass over some dags says nothing of the others: they are not named anew after it.
        kept = set() if whole else self._unreadable - {run.dag_id for run, _ in readable}
        self._unreadable = kept | unreadable
        return readable

    async def _with_backfills(self, tx: Transaction, runs: list[Planned]) -> list[Planned]:
        """Return those that belong to no backfill, or to one whose row could be locked too."""
        wanted = {run.backfill_id for run, _ in runs if run.backfill_id is not None}
        if not wanted:
            return runs
        obtained = await lock_backfills(tx.session, wanted)
        return [one for one in runs if one[0].backfill_id is None or one[0].backfill_id in obtained]

    async def _start(self, tx: Transaction, allowed: Sequence[Planned], now: datetime) -> None:
        ids = [run.id for run, _ in allowed]
        if not ids:
            return
        if (written := await start_runs(tx.session, ids, now)) != len(ids):
            raise LostRace("dag_run", len(ids) - written)
        if get_listener_manager().has_listeners:
            await self._notify(tx, dict(zip(ids, allowed, strict=True)))

    async def _notify(self, tx: Transaction, started: dict[int, Planned]) -> None:
        written = {"populate_existing": True}  # past the objects that the session may hold
        query = select(DagRun).where(DagRun.id.in_(started))
        rows = await tx.session.scalars(query, execution_options=written)
        for dag_run in rows.all():
            await tx.run(announce, dag_run, started[dag_run.id][1])


def _soonest(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)
