"""The errors this package raises.

::

    AsyncSchedulerError
    ├── InvalidSetting          a value of [async_scheduler] is wrong
    ├── RoutineFailed           a routine ended the scheduler
    ├── DatabaseUnreachable     no connection to the metadata database can be opened
    ├── ExecutorUnresponsive    an executor did not answer in time
    └── LostRace                rows were no longer as a decision had found them
"""

from __future__ import annotations


class AsyncSchedulerError(Exception):
    """Base of every error raised by this package."""


class InvalidSetting(AsyncSchedulerError):
    """A configuration value is wrong; the message names section, key, value and what is allowed."""

    def __init__(self, section: str, key: str, value: str, allowed: str) -> None:
        self.section, self.key, self.value, self.allowed = section, key, value, allowed
        super().__init__(f"[{section}] {key} = {value!r} is not allowed; allowed: {allowed}")


class RoutineFailed(AsyncSchedulerError):
    """A routine raised an error that a retry cannot mend, so the scheduler ends."""

    def __init__(self, routine: str, cause: BaseException) -> None:
        self.routine, self.cause = routine, cause
        super().__init__(f"Routine {routine!r} failed: {type(cause).__name__}: {cause}")


class DatabaseUnreachable(AsyncSchedulerError):
    """No connection to the metadata database can be opened; the cause is the driver's own error."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(f"The metadata database cannot be reached: {type(cause).__name__}")


class ExecutorUnresponsive(AsyncSchedulerError):
    """An executor did not answer a call in time."""

    def __init__(self, executor: str, call: str, seconds: float) -> None:
        self.executor, self.call, self.seconds = executor, call, seconds
        super().__init__(f"Executor {executor} did not answer {call}() within {seconds:g} s")


class LostRace(AsyncSchedulerError):
    """Rows were no longer as a decision had found them; the transaction is rolled back and decided anew."""

    def __init__(self, table: str, rows: int) -> None:
        self.table, self.rows = table, rows
        super().__init__(f"{rows} rows of {table} changed before the decision about them was written")
