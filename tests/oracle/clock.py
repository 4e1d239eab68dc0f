"""A clock that stories put forward, so that nobody waits for a retry or a sensor."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from unittest.mock import patch

from airflow._shared.timezones import timezone

if TYPE_CHECKING:
    from collections.abc import Iterator

_true_now = timezone.utcnow


class Clock:
    """The time that Airflow's code and ours see: the true one, and what stories have added to it."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def put_forward(self) -> None:
        """Let an hour pass: every retry and reschedule falls due, and so may a run."""
        self._ahead += timedelta(hours=1)

    def now(self) -> object:
        """Return the time."""
        return _true_now() + self._ahead


@contextmanager
def story_clock() -> Iterator[Clock]:
    """Let a clock of its own rule while the block runs."""
    clock = Clock()
    with patch.object(timezone, "utcnow", clock.now):
        yield clock
