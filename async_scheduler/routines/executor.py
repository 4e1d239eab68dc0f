"""One executor: hands it work, sends its heartbeat, turns its events into state changes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from async_scheduler.database.faults import classify
from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session

    from async_scheduler.bridge.executor_port import Events, ExecutorPort
    from async_scheduler.bridge.executor_view import ExecutorView

log = logging.getLogger(__name__)

HANDLED_STATES = frozenset(
    {
        TaskInstanceState.FAILED,
        TaskInstanceState.SUCCESS,
        TaskInstanceState.QUEUED,
        TaskInstanceState.RUNNING,
        TaskInstanceState.RESTARTING,
    }
)
"""The states that ``process_executor_events`` acts on; it ignores events with any other."""


class RunExecutor:
    """Mirrors the executor's part of the loop: heartbeat, ``process_executor_events``, task event logs.

    Locks: ``task_instance`` NO KEY UPDATE SKIP LOCKED, until the commit.
    """

    def __init__(
        self,
        name: str,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        port: ExecutorPort,
        view: ExecutorView,
        poll_interval: float,
        timeout: float,
    ) -> None:
        self.name = name
        self._scheduler = scheduler
        self._sessions = sessions
        self._port = port
        self._view = view
        self._poll_interval = poll_interval
        self._timeout = timeout

    async def run_once(self) -> Outcome:
        """Beat once, then process the events brought back.

        :raises SchedulerFenced: when others have declared this scheduler dead.
        """
        await self.confirm()
        beat = await self._port.beat(self.least_between_beats())
        stats.timing(
            "scheduler.executor_heartbeat_duration",
            timedelta(seconds=beat.seconds),
            tags={"executor": type(self._port.executor).__name__},
        )
        # The beat above has no limit: a slow executor delays only itself.
        async with asyncio.timeout(self._timeout):
            handled = await self._take_up_events()
            await self._save_event_logs()
        return Outcome(
            {"handed_over": beat.handed_over, "events": handled, "put_back": len(self._port.events)},
            progressed=handled > 0,
            due_in=self._poll_interval if self._port.has_unfinished_work or self._port.events else None,
        )

    async def confirm(self) -> None:
        """See to it that the port may hand over: a commit looks at the job where no look is fresh.

        :raises SchedulerFenced: when others have declared this scheduler dead.
        """
        if not self._port.may_beat:
            async with transaction(self._sessions):
                pass

    def least_between_beats(self) -> float:
        """Return the seconds from a heartbeat to the next one, unless something is to be handed over."""
        return 0.0

    async def _take_up_events(self) -> int:
        return await self.process_events()

    async def process_events(self) -> int:
        """Process the events at hand; return how many. Those of locked rows stay for the next time.

        ``process_executor_events`` empties the buffer and then skips rows that are locked at that moment, so
        in the sync loop their events are lost (#55004). If the transaction fails, all of them stay.
        """
        if not self._port.events:
            return 0
        events = dict(self._port.events)
        async with transaction(self._sessions) as tx:
            left_over = await tx.run(self._process, dict(events), tx.sync_session)
        for key, event in events.items():
            if key not in left_over:
                self._port.settle(key, event)
        return len(events) - len(left_over)

    def _process(self, events: Events, session: Session) -> set[Any]:
        chosen = _last_per_instance(events)
        self._view.deliver(events)
        self._scheduler._process_executor_events(executor=self._view, session=session)
        # What it handled it has taken out of the dictionary.
        return _with_a_row([key for key in chosen if key in events], session)

    async def _save_event_logs(self) -> None:
        records = self._port.executor._task_event_logs
        if not records:
            return
        batch = deque(records)
        count = len(batch)
        try:
            async with transaction(self._sessions) as tx:
                await tx.run(self._scheduler._process_task_event_logs, batch, tx.sync_session)
        except DBAPIError as error:
            if classify(error).passing:
                raise  # the records are still there for the next try
            log.exception("Something went wrong when trying to save task event logs.")
        for _ in range(count):
            records.popleft()


def _last_per_instance(events: Events) -> list[TaskInstanceKey]:
    """Return the keys that Airflow acts on: of several tries of one instance, the last reported."""
    chosen: dict[Any, TaskInstanceKey] = {}
    for key, (state, _) in events.items():
        if isinstance(key, TaskInstanceKey):
            chosen.pop(key.primary, None)
            if state in HANDLED_STATES:
                chosen[key.primary] = key
    return list(chosen.values())


def _with_a_row(keys: Iterable[TaskInstanceKey], session: Session) -> set[Any]:
    """Return those of *keys* whose task instance exists: its row was only locked. Reads without a lock."""
    condition = TaskInstance.filter_for_tis(keys)
    if condition is None:
        return set()
    columns = (TaskInstance.dag_id, TaskInstance.task_id, TaskInstance.run_id, TaskInstance.map_index)
    found = {tuple(row) for row in session.execute(select(*columns).where(condition))}
    left_over = {key for key in keys if key.primary in found}
    if left_over:
        log.info("Events of %d locked task instances are kept for the next pass", len(left_over))
    return left_over
