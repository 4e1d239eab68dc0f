"""When a task instance that has to wait may go on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_scheduler.decide.plan import RetryDelay


@dataclass(frozen=True, slots=True)
class FailedTry:
    """A try that failed and may be repeated. ``override`` are seconds set by a retry policy."""

    dag_id: str
    task_id: str
    logical_date: datetime | None
    try_number: int
    end_date: datetime | None
    override: float | None = None


def retry_due(failed: FailedTry, retry: RetryDelay, now: datetime) -> datetime:
    """Return when *failed* may be repeated (``TaskInstance.next_retry_datetime``).

    A try without an end counts as ended *now*; Airflow does so only with an override.
    """
    ended = failed.end_date or now
    if failed.override is not None:
        return ended + timedelta(seconds=failed.override)
    if retry.multiplier == 1.0 or retry.multiplier <= 0:
        return ended + retry.delay
    delay = timedelta(seconds=min(_jittered(failed, _shortest(failed, retry)), retry.cap))
    return ended + (min(retry.longest, delay) if retry.longest else delay)


def _shortest(failed: FailedTry, retry: RetryDelay) -> int:
    try:
        seconds = retry.delay.total_seconds() * retry.multiplier ** (failed.try_number - 1)
        return max(1, math.ceil(seconds))
    except OverflowError:
        return retry.cap


def _jittered(failed: FailedTry, shortest: int) -> int:
    """Spread the delay over once to twice its length, the same for every look at the same try."""
    name = f"{failed.dag_id}#{failed.task_id}#{failed.logical_date}#{failed.try_number}"
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    return shortest + int(digest, 16) % shortest


def retry_waits(due: datetime, now: datetime) -> bool:
    """Return whether a retry falling due at *due* is still early (``TaskInstance.ready_for_retry``)."""
    return due >= now


def reschedule_waits(due: datetime, now: datetime) -> bool:
    """Return whether a reschedule falling due at *due* is still early (``ReadyToRescheduleDep``)."""
    return due > now
