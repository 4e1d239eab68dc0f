"""The errors this package raises.

::

    AsyncSchedulerError
    ├── InvalidSetting          a value of [async_scheduler] is wrong
    ├── UnsupportedConnection   the async driver cannot connect as [database] asks for
    ├── SecondScheduler         another scheduler runs where only one may
    ├── RoutineFailed           a routine ended the scheduler
    ├── DatabaseUnreachable     no connection to the metadata database can be opened
    ├── SchedulerFenced         others have declared this scheduler dead
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


class UnsupportedConnection(AsyncSchedulerError):
    """The async driver cannot connect in the way that ``[database]`` asks for; nothing is left out silently.

    :param what: the parameter and its value, never a password.
    :param instead: what to do about it.
    """

    def __init__(self, what: str, instead: str, driver: str = "") -> None:
        self.what, self.instead, self.driver = what, instead, driver
        by = f" by {driver}" if driver else ""
        super().__init__(f"[database] the connection cannot be made: {what} is not supported{by}; {instead}")


class SecondScheduler(AsyncSchedulerError):
    """Another scheduler is alive on a database on which only one may run."""

    def __init__(self, database: str, job: int, hostname: str | None) -> None:
        self.database, self.job, self.hostname = database, job, hostname
        super().__init__(
            f"Only one scheduler may run on this database, because Airflow takes no row locks on it "
            f"({database}); scheduler job {job} on host {hostname or 'unknown'} is alive: stop it first"
        )


class RoutineFailed(AsyncSchedulerError):
    """A routine raised an error that a retry cannot mend, so the scheduler ends."""

    def __init__(self, routine: str, cause: BaseException) -> None:
        self.routine, self.cause = routine, cause
        super().__init__(f"Routine {routine!r} failed: {type(cause).__name__}: {cause}")


class DatabaseUnreachable(AsyncSchedulerError):
    """No connection to the metadata database can be opened; the cause is the driver's own error."""

    def __init__(self, cause: BaseException, reason: str = "") -> None:
        self.cause = cause
        why = f": {reason}" if reason else ""
        super().__init__(f"The metadata database cannot be reached: {type(cause).__name__}{why}")


class SchedulerFenced(AsyncSchedulerError):
    """Others have declared this scheduler's job dead and may have taken its work: it must write no more."""

    def __init__(self, job: int | None, state: str | None, silent: float, threshold: float) -> None:
        self.job, self.state, self.silent, self.threshold = job, state, silent, threshold
        found = "is no longer in the database" if state is None else f"is {state} in the database"
        super().__init__(
            f"Job {job} of this scheduler {found}, so others may have taken over its work: it steps down "
            f"without writing anything more. Its last heartbeat was {silent:.0f} s ago; "
            f"[scheduler] scheduler_health_check_threshold is {threshold:g} s"
        )


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
