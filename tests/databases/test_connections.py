"""Connections: how many at most is known and said at the start, and none idles inside a transaction."""

from __future__ import annotations

import logging
import re
import threading
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING

import psycopg2
import pytest

from async_scheduler.database.capacity import Blocking, describe, require_pool
from async_scheduler.errors import InvalidSetting
from async_scheduler.settings import Algorithm, Mode, Settings
from tests.databases.processes import environment
from tests.databases.workload import run_ours, write_workload
from tests.support.process import schedulers_on
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

OBSERVE = """
SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
                          FILTER (WHERE state LIKE 'idle in transaction%%'), 0)
FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
PAUSE = 0.02
LONGEST_IDLE = 1.0
"""Seconds for which a connection may wait for its client in the midst of a transaction."""


class Observer(threading.Thread):
    """Asks the server every 20 ms for its connections to a database.

    For how long a connection idled is counted without the time in which this process was not given a
    processor: the client could not have gone on then.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(name="observer")
        self._database = database
        self._end = threading.Event()
        self._stalls: list[tuple[float, float]] = []
        self.most = 0
        self.longest_idle = 0.0
        self.looks = 0

    def run(self) -> None:
        """Look until the end."""
        connection = psycopg2.connect(
            host=self._database.socket_dir, user="postgres", dbname="postgres", application_name="observer"
        )
        with closing(connection):
            connection.autocommit = True
            cursor = connection.cursor()
            begun = monotonic()
            while not self._end.wait(PAUSE):
                self._stalls.append((monotonic(), monotonic() - begun - PAUSE))
                cursor.execute(OBSERVE, (self._database.name,))
                count, idle = cursor.fetchone()
                self.most = max(self.most, count)
                self.longest_idle = max(self.longest_idle, float(idle) - self._stalled(float(idle)))
                self.looks += 1
                begun = monotonic()

    def _stalled(self, seconds: float) -> float:
        """Return for how long this process stood still during the last *seconds*."""
        since = monotonic() - seconds
        return sum(stall for at, stall in self._stalls if at > since)

    def stop(self) -> None:
        """End looking."""
        self._end.set()
        self.join()


def observed(database: Database, settings: Settings) -> Observer:
    """Run the stored workload and return what the server saw."""
    observer = Observer(database)
    observer.start()
    try:
        run_ours(settings)
    finally:
        observer.stop()
    assert observer.looks > 10
    return observer


def announced(caplog: pytest.LogCaptureFixture) -> int:
    """Return the number in the line that the scheduler printed at its start."""
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Database connections:")]
    found = re.match(r"Database connections: at most (\d+) = ", line)
    assert found, line
    return int(found[1])


def test_the_number_said_at_the_start_is_not_exceeded(
    airflow_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    write_workload()
    # The one of this process's own, from writing the workload, is Airflow's engine's and counts too.
    with caplog.at_level(logging.INFO, logger="async_scheduler.assembly"):
        observer = observed(airflow_db, Settings(algorithm="redesigned", executor_poll_interval=0.02))
    assert 0 < observer.most <= announced(caplog)


def test_the_observer_sees_a_connection_that_idles(database: Database) -> None:
    observer = Observer(database)
    observer.start()
    try:
        with closing(psycopg2.connect(database.url("psycopg2").replace("+psycopg2", ""))) as connection:
            connection.cursor().execute("SELECT 1")
            wait_until(lambda: observer.longest_idle > LONGEST_IDLE)
    finally:
        observer.stop()


@pytest.mark.faults
@pytest.mark.parametrize("algorithm", ["redesigned", "upstream"])
@pytest.mark.parametrize(
    ("mode", "pool"), [("concurrent", 5), ("concurrent", 0), ("sequential", 0), ("shared_session", 0)]
)
def test_no_connection_idles_in_a_transaction(
    airflow_db: Database, caplog: pytest.LogCaptureFixture, algorithm: Algorithm, mode: Mode, pool: int
) -> None:
    write_workload(dags=3, runs=4 if algorithm == "upstream" else 20)
    settings = Settings(algorithm=algorithm, mode=mode, pool_size=pool, executor_poll_interval=0.02)
    with caplog.at_level(logging.INFO, logger="async_scheduler.assembly"):
        observer = observed(airflow_db, settings)
    assert observer.longest_idle <= LONGEST_IDLE
    assert observer.most <= announced(caplog)


def test_a_pool_too_small_for_the_mode_is_refused() -> None:
    require_pool(0, "concurrent", 3)
    require_pool(7, "concurrent", 3)
    require_pool(1, "sequential", 3)
    require_pool(1, "shared_session", 3)
    message = r"pool_size = '6' is not allowed; allowed: at least 7 in mode concurrent with 3 executor\(s\)"
    with pytest.raises(InvalidSetting, match=message):
        require_pool(6, "concurrent", 3)


def test_what_is_said() -> None:
    assert describe(20, Blocking(5, 10)) == (
        "Database connections: at most 36 = 20 for routines ([async_scheduler] pool_size) + 1 for secrets + "
        "15 blocking ones of Airflow's ([database] sql_alchemy_pool_size 5 + sql_alchemy_max_overflow 10)"
    )
    for unlimited in (Blocking(5, -1), Blocking(0, 10), Blocking(5, 10, pooled=False)):
        said = describe(20, unlimited)
        assert said.startswith("Database connections: at most 21 asynchronous ones = ")
        assert "Airflow's blocking ones have no limit" in said


TOO_SMALL = (
    "[async_scheduler] pool_size = '2' is not allowed; allowed: at least 5 in mode concurrent with 1 "
    "executor(s), or 0 for as many as can be used; mode = sequential and mode = shared_session need 1"
)
UNSUPPORTED = (
    "[database] the connection cannot be made: gssencmode=require is not supported by asyncpg; "
    "leave it out, or use the driver postgresql+psycopg in sql_alchemy_conn_async"
)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ASYNC_SCHEDULER__POOL_SIZE", "2", TOO_SMALL),
        (
            "DATABASE__SQL_ALCHEMY_CONN_ASYNC",
            "postgresql+asyncpg://u:secret@h/d?gssencmode=require",
            UNSUPPORTED,
        ),
    ],
)
def test_wrong_settings_end_the_command_with_one_line(
    database: Database, tmp_path: Path, variable: str, value: str, message: str
) -> None:
    with schedulers_on(database, tmp_path) as schedulers:
        process = schedulers.start("--async", **{f"AIRFLOW__{variable}": value})
        assert process.wait() == 2
    assert process.text.splitlines()[-1] == f"airflow scheduler --async: error: {message}"
    assert "secret" not in process.text


def test_an_unreachable_server_is_named_at_once(database: Database, tmp_path: Path) -> None:
    nowhere = environment(database, tmp_path)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"].replace(
        database.name, "nosuch"
    )
    with schedulers_on(database, tmp_path) as schedulers:
        process = schedulers.start("--async", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC=nowhere)
        assert process.wait() == 1
    assert (
        "airflow scheduler --async: The metadata database cannot be reached: "
        'InvalidCatalogNameError: database "nosuch" does not exist'
    ) in process.text
