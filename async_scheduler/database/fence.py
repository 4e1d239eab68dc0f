"""Keeps a scheduler that others have declared dead from writing on.

Another scheduler marks a job failed when its heartbeat is older than ``[scheduler]
scheduler_health_check_threshold`` and takes over or resets its task instances
(``adopt_or_reset_orphaned_tasks``). A scheduler that was only paused – SIGSTOP, a frozen machine, a
partition – would go on as if nothing had happened (#57618): Airflow's own heartbeat even writes the job's
state back to running. Here every commit of a routine is preceded by a look at the job, in the same
transaction, and so is every hand-over to an executor; a statement that commits by itself asks for the job's
state in itself. A look is believed for :data:`LEASE` seconds, as long as the last heartbeat is so young that
no one whose clock is right can have marked the job: in a healthy scheduler the looks of the probe, or else
of the heartbeat routine, serve all the others.

No lock is taken: a lock on the job's row held by a paused scheduler would stop those that want to mark it.
What is written between the look and the commit are rows that the transaction has locked since before, so
others cannot have taken them over meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import event

from async_scheduler.errors import SchedulerFenced
from async_scheduler.store.jobs import read_job_state, retire_job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

LEASE = 1.5
"""Seconds for which finding the job running is believed: six looks of the probe, and a little more than
from one of the heartbeat to the next."""
LEASE_SHARE = 0.25
"""The most of the health check threshold that the lease may be."""
YOUNG_SHARE = 0.5
"""The most of the health check threshold that the last heartbeat may be old for a look to be believed."""
RUNNING = "running"


def _since_boot() -> float:
    """Return a clock in seconds that goes on while the process, or the machine, is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class Look:
    """What was found at a look at the job: its state, None where its row is gone."""

    state: str | None = None


class Fence:
    """Whether the scheduler's job is still alive in the eyes of others. Used from several threads."""

    def __init__(
        self, job: int, threshold: float, age: float = 0.0, clock: Callable[[], float] = _since_boot
    ) -> None:
        """Guard *job*, which this process has just written as running.

        *age* is that of its heartbeat, *threshold* the health check's, both in seconds.
        """
        self.lease = min(LEASE, threshold * LEASE_SHARE)
        self._job = job
        self._threshold = threshold
        self._clock = clock
        self._confirmed = clock()
        self._beaten = self._confirmed - max(0.0, age)
        self._lost: SchedulerFenced | None = None

    @property
    def job(self) -> int:
        """The id of the guarded job."""
        return self._job

    @property
    def lost(self) -> bool:
        """Whether the job was found dead. That is final."""
        return self._lost is not None

    @property
    def fresh(self) -> bool:
        """Whether the job was found running not longer ago than the lease, and its heartbeat is young."""
        if self.lost:
            return False
        young = self._clock() - self._beaten <= self._threshold * YOUNG_SHARE
        return young and self.unseen_for <= self.lease

    @property
    def unseen_for(self) -> float:
        """Seconds since the job was found running."""
        return self._clock() - self._confirmed

    def guard(self, session: Session) -> None:
        """Look at the job in *session*'s transaction, unless a look is fresh. Call before a commit.

        :raises SchedulerFenced: when the job is not running any more.
        """
        if not self.fresh:
            self.confirm(session)

    def confirm(self, session: Session, *, lock: bool = False) -> None:
        """Look at the job in *session*'s transaction; with *lock* it cannot be marked until the commit.

        :raises SchedulerFenced: when it is not running any more.
        """
        with self.looking() as look:
            look.state = read_job_state(session, self._job, lock=lock)

    @contextmanager
    def looking(self) -> Iterator[Look]:
        """Yield a look, whose state the block reads from the database, by the job's id; judge it afterwards.

        :raises SchedulerFenced: when the job is not running any more.
        """
        if self._lost is not None:
            raise self._lost
        asked, look = self._clock(), Look()
        yield look
        if look.state != RUNNING:
            self._lost = SchedulerFenced(self._job, look.state, asked - self._beaten, self._threshold)
            raise self._lost
        self._confirmed = max(self._confirmed, asked)  # another look may have been quicker

    def retire(self, session: Session) -> None:
        """End the job well in *session*'s transaction: no scheduler takes it for a dead one after the commit.

        :raises SchedulerFenced: when others have marked it before.
        """
        if not retire_job(session, self._job):
            self.confirm(session)

    def beaten(self, age: float) -> None:
        """Note that the job's row now holds a heartbeat that is *age* seconds old."""
        self._beaten = self._clock() - max(0.0, age)

    def around(self, function: Callable[[], object]) -> Callable[[], object]:
        """Return *function* so that each commit of its thread's own scoped session is guarded."""

        def guarded() -> object:
            from airflow import settings

            session = settings.Session()
            event.listen(session, "before_commit", self.guard)
            try:
                return function()
            finally:
                event.remove(session, "before_commit", self.guard)

        return guarded
