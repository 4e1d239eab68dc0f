"""The scheduler job's own heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.jobs.job import perform_heartbeat

from async_scheduler.driver.routine import NOTHING, Outcome

if TYPE_CHECKING:
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.bridge.threads import PurposeThread


class SendHeartbeat:
    """Mirrors ``perform_heartbeat`` in the loop; it opens its own sessions and may sleep: hence a thread.

    The loop asks for each beat: a loop that hangs lets the heartbeat stop, as it should.
    """

    name = "heartbeat"

    def __init__(self, scheduler: SchedulerJobRunner, thread: PurposeThread) -> None:
        self._scheduler = scheduler
        self._thread = thread

    async def run_once(self) -> Outcome:
        """Update the job's heartbeat if its time has come.

        :raises airflow.exceptions.AirflowException: when the job was told to end from outside.
        """
        await self._thread.call(
            perform_heartbeat,
            job=self._scheduler.job,
            heartbeat_callback=self._scheduler.heartbeat_callback,
            only_if_necessary=True,
        )
        return NOTHING
