"""Task instances whose queuing commit got no answer: handed over if it turns out that they were queued."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.store.scheduled import find_queued_by

if TYPE_CHECKING:
    from uuid import UUID

    from async_scheduler.store.scheduled import QueuedRow

log = logging.getLogger(__name__)

Queued = tuple["QueuedRow", Any]
"""A task instance that was queued, and its executor."""


class Doubts:
    """What a critical section queues, from the moment before its commit until the commit's answer.

    An answer that never comes, because the connection ended, leaves it open whether the server committed. A
    task instance that is queued and held by no executor would wait for its time-out.
    """

    def __init__(self) -> None:
        self._open: dict[UUID, Queued] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, row: QueuedRow, executor: Any) -> None:
        """Note that *row* is queued if the commit to come is made."""
        self._open[row.id] = row, executor

    def resolve(self, instance: UUID) -> Queued:
        """Return what is queued for certain and forget it."""
        return self._open.pop(instance)

    async def settle(self, sessions: Sessions, job: int | None) -> list[Queued]:
        """Ask the database, where there are doubts; return what was queued, and forget what was not.

        Rows that the server still holds for the lost connection stay in doubt.

        Locks: ``task_instance`` NO KEY UPDATE SKIP LOCKED in the order of ids, until the commit.
        """
        if not self._open:
            return []
        async with transaction(sessions) as tx:
            found = await find_queued_by(tx.session, list(self._open), job)
        log.info("A commit got no answer: %d task instances are queued, %d are still held", *map(len, found))
        queued = [doubted for instance, doubted in self._open.items() if instance in found.queued]
        self._open = {instance: self._open[instance] for instance in found.held}
        return queued
