"""Task instance states as small integers.

The order is part of the meaning: finished states come first, then the schedulable ones, then the rest,
so that the two questions asked most are one comparison each. Names and sets are those of Airflow
(``utils/state.py``, ``ti_deps/dependencies_states.py``).
"""

from __future__ import annotations

from typing import Final

SUCCESS: Final = 0
FAILED: Final = 1
SKIPPED: Final = 2
UPSTREAM_FAILED: Final = 3
REMOVED: Final = 4

NO_STATE: Final = 5
UP_FOR_RETRY: Final = 6
UP_FOR_RESCHEDULE: Final = 7

SCHEDULED: Final = 8
QUEUED: Final = 9
RUNNING: Final = 10
RESTARTING: Final = 11
DEFERRED: Final = 12
AWAITING_INPUT: Final = 13

LAST_FINISHED: Final = REMOVED
LAST_SCHEDULABLE: Final = UP_FOR_RESCHEDULE
FINISHED_COUNT: Final = LAST_FINISHED + 1

NAMES: Final[tuple[str | None, ...]] = (
    "success",
    "failed",
    "skipped",
    "upstream_failed",
    "removed",
    None,
    "up_for_retry",
    "up_for_reschedule",
    "scheduled",
    "queued",
    "running",
    "restarting",
    "deferred",
    "awaiting_input",
)
"""The value of the state column for each code."""

CODES: Final[dict[str | None, int]] = {name: code for code, name in enumerate(NAMES)}
"""The code for each value of the state column."""


def is_finished(code: int) -> bool:
    """Return whether a task instance in this state will not run any more (``State.finished``)."""
    return code <= LAST_FINISHED


def is_schedulable(code: int) -> bool:
    """Return whether a task instance in this state may become scheduled (``SCHEDULEABLE_STATES``)."""
    return NO_STATE <= code <= LAST_SCHEDULABLE
