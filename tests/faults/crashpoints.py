"""Named points at which a scheduler kills itself, as ``kill -9`` would.

A point is a routine, a moment of its transactions and a count: ``schedule|before_commit|3``. It is set by
``FAULTS_CRASH`` and armed by the test's executor when Airflow loads it; the product knows nothing of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from async_scheduler.measure import attribution
from tests.faults.schedulers import CRASH

MOMENTS = {"begin": "after_begin", "before_commit": "before_commit", "after_commit": "after_commit"}
"""Moments of a transaction, and the event of SQLAlchemy's session that marks each."""
STATEMENT = "statement"
"""Before a statement: the only moment of a routine that looks without a transaction."""
EVENTS = {**MOMENTS, STATEMENT: "do_orm_execute"}


def arm() -> None:
    """Set the point that the environment asks for, if any."""
    if text := os.environ.get(CRASH):
        routine, moment, count = text.split("|")
        event.listen(Session, EVENTS[moment], _counter(routine, int(count)))


def _counter(routine: str, count: int) -> Callable[..., None]:
    left = count

    def passed(*_: Any) -> None:
        nonlocal left
        activity = attribution.current()
        if activity is None or activity.routine != routine:
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return passed
