"""The scheduler job's own heartbeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone
from airflow.jobs.job import perform_heartbeat
from airflow.utils.session import create_session
from sqlalchemy.exc import OperationalError

from async_scheduler.driver.routine import NOTHING, Outcome

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.bridge.threads import PurposeThread
    from async_scheduler.database.fence import Fence


SEEN_LATELY = 0.5
"""Seconds for which nobody need look at a job again that was found running."""


@contextmanager
def _without_sleep(job: Any) -> Iterator[None]:
    """Let Airflow's heartbeat write at once: it would sleep until a beat is due by the clock of that moment.

    The job's row is locked meanwhile, and a clock set back just now would make that an hour.
    """
    rate, job.heartrate = job.heartrate, float("-inf")
    try:
        yield
    finally:
        job.heartrate = rate


class SendHeartbeat:
    """Mirrors ``perform_heartbeat`` in the loop; it opens its own sessions and may sleep: hence a thread.

    The loop asks for each beat: a loop that hangs lets the heartbeat stop, as it should.

    Airflow's heartbeat writes the state that the process remembers, so that a scheduler which others have
    marked failed becomes running again. Here the job is looked at first, under its row lock, in the
    transaction that writes the beat. Between two beats it is looked at only if nobody else does.
    """

    name = "heartbeat"

    def __init__(self, scheduler: SchedulerJobRunner, thread: PurposeThread, fence: Fence) -> None:
        self._scheduler = scheduler
        self._thread = thread
        self._fence = fence

    async def run_once(self) -> Outcome:
        """Look at the job; update its heartbeat if its time has come.

        :raises SchedulerFenced: when the job is not running any more.
        """
        if self._is_due() or self._fence.unseen_for > SEEN_LATELY:
            await self._thread.call(self._beat)
        return NOTHING

    def _is_due(self) -> bool:
        """Whether it is time for a beat, or the last one is in the future: the clock was set back."""
        return not 0 <= self._seconds_since_beat() < self._scheduler.job.heartrate

    def _beat(self) -> None:
        # Airflow writes the beat that the process remembered before this one (it merges a transient job
        # and sets the time only then), so the row's is always one beat older.
        self._forget_the_future()
        job, age = self._scheduler.job, self._seconds_since_beat()
        due = age >= job.heartrate
        try:
            # The session of this thread: perform_heartbeat gets the same one, and so the same transaction.
            with create_session() as session:
                self._fence.confirm(session, lock=due)
                if due:
                    with _without_sleep(job):
                        perform_heartbeat(job, self._scheduler.heartbeat_callback, only_if_necessary=False)
            if due:
                self._fence.beaten(age)
        except OperationalError:
            stats.incr("job_heartbeat_failure")  # as Job.heartbeat does
            raise

    def _forget_the_future(self) -> None:
        """After the clock was set back: Airflow would sleep until the last beat is past again."""
        job = self._scheduler.job
        if self._seconds_since_beat() < 0:
            job.latest_heartbeat = timezone.utcnow() - timedelta(seconds=job.heartrate)

    def _seconds_since_beat(self) -> float:
        beat: datetime = self._scheduler.job.latest_heartbeat
        return float((timezone.utcnow() - beat).total_seconds())
