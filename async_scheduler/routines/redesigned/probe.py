"""Looks for work that nobody inside this process can have announced, for all stages at once."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

from airflow._shared.timezones import timezone

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.routines.redesigned.peers import Peers
from async_scheduler.store.waiting import Waiting, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from async_scheduler.database.fence import Fence

FOLLOWERS: Mapping[str, str] = {
    "queued_runs": "start",
    "due_dags": "create",
    "assets": "create",
    "scheduled_instances": "enqueue",
    "missed_deadlines": "deadlines",
    "callbacks": "executor_callbacks",
    "connection_tests": "connection_tests",
}
"""What may wait, and the routine whose work that is."""


BESIDE_OTHERS = 0.15
"""Seconds between two looks beside other schedulers while no queued run waits: work that comes all at once is
begun by all of them when the last one has seen it, which takes a third longer than one alone takes. Beside
one that starts whatever it finds in each of its loops, as a stock one does, also while some wait: it gets
every run that this one does not see first, and on a busy machine that were nearly all."""


class Probe:
    """Wakes the stages that have something to do, so that idle ones need not ask the database themselves.

    One statement in place of one or more for each stage, so it can be made often: a run that a user or the
    API server has just queued starts within *interval*. Work that is there but cannot be done yet, such as
    a queued run beyond its dag's limit, wakes its stage every *patience* seconds. That is how long a run may
    have to wait too that does not show: others were started, so that there are not more than before, and it
    was queued before one that is left (by the clock of whoever queued them; its dag was unpaused, its
    ``run_after`` came, or the transaction took long). That another scheduler came or went wakes *sweep*,
    which sees who; so does a running run while the sweep rests. Reads only.

    The same statement reads the state of the scheduler's own job for the *fence*, so that hardly any other
    transaction has to.

    :param interval: seconds between two looks; beside other schedulers no more than :data:`BESIDE_OTHERS`.
    :param alive_within: seconds since its last heartbeat for which another scheduler counts as alive.
    :param sweep_rests: whether the last sweep saw no run running.
    :param on_new_runs: called when runs were queued since the last look.
    """

    name = "probe"

    def __init__(
        self,
        sessions: Sessions,
        fence: Fence,
        patience: float,
        peers: Peers | None = None,
        alive_within: float = 15.0,
        interval: float = 0.25,
        sweep_rests: Callable[[], bool] = lambda: False,
        on_new_runs: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_new_runs = on_new_runs
        self._sessions = sessions
        self._fence = fence
        self._patience = patience
        self._peers = peers or Peers()
        self._alive_within = timedelta(seconds=alive_within)
        self._interval = interval
        self._sweep_rests = sweep_rests
        self._seen: Waiting | None = None
        self._woken: dict[str, float] = {}

    @property
    def saw_queued_runs(self) -> bool:
        """Whether queued runs waited at the last look; true before the first."""
        return self._seen is None or self._seen.queued_runs > 0

    def note_none_queued(self) -> None:
        """Learn from *start*, which has looked since, that no queued run waits."""
        if self._seen is not None:
            self._seen = self._seen._replace(queued_runs=0)

    async def run_once(self) -> Outcome:
        """Look once; report how many routines have work.

        :raises SchedulerFenced: when the scheduler's job is not running any more.
        """
        async with transaction(self._sessions) as tx:
            with self._fence.looking() as at_job:
                found = await look(tx.session, timezone.utcnow() - self._alive_within, self._fence.job)
                at_job.state = found.job_state
        if self._seen is not None and self._are_new("queued_runs", found):
            self._on_new_runs()
        wakes = tuple(dict.fromkeys(self._to_wake(found)))
        self._seen = found
        return Outcome({"woken": len(wakes)}, progressed=bool(wakes), wakes=wakes, due_in=self._due_in(found))

    def _due_in(self, found: Waiting) -> float | None:
        """Return the seconds until the next look, None for as many as usual."""
        may_miss = self._peers.others and (self._peers.beside_others_kind or not found.queued_runs)
        return min(self._interval, BESIDE_OTHERS) if may_miss else None

    def _to_wake(self, found: Waiting) -> Iterator[str]:
        if self._seen is not None and found.schedulers != self._seen.schedulers:
            self._peers.in_doubt = True
            yield "sweep"
        if found.running_runs and self._sweep_rests():
            yield "sweep"
        now = monotonic()
        for what, routine in FOLLOWERS.items():
            is_due = now - self._woken.get(what, 0.0) >= self._patience
            if getattr(found, what) and (is_due or self._are_new(what, found)):
                self._woken[what] = now
                yield routine

    def _are_new(self, what: str, found: Waiting) -> bool:
        """Whether some of *what* may have come since the last look.

        That fewer runs are queued says nothing new: some were started, here or elsewhere. What *start* found
        locked it looks at again by itself.
        """
        seen = self._seen
        if seen is None:
            return True
        if what == "queued_runs":
            return found.queued_runs > seen.queued_runs or _is_later(found.queued_last, seen.queued_last)
        return bool(getattr(found, what) != getattr(seen, what))


def _is_later(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and (other is None or one > other)
