"""Where Airflow takes no row locks, an earlier scheduler that lives is respected and a dead one replaced."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from airflow._shared.timezones import timezone
from airflow.jobs.job import Job
from airflow.utils.session import create_session
from sqlalchemy import update

from async_scheduler.database.opening import refuse_second_scheduler
from async_scheduler.errors import SecondScheduler
from async_scheduler.store import dialect

if TYPE_CHECKING:
    from tests.support.postgres import Database


def new_job(state: str = "running", seconds_ago: float = 0) -> int:
    """Store a scheduler's job that was last alive some seconds ago; return its id."""
    with create_session() as session:
        job = Job(job_type="SchedulerJob", state=state, hostname="first.example.org")
        job.latest_heartbeat = timezone.utcnow() - timedelta(seconds=seconds_ago)
        session.add(job)
        session.flush()
        return int(job.id)


def set_heartbeat(job: int, seconds_ago: float) -> None:
    """Let a job have been alive some seconds ago."""
    beat = timezone.utcnow() - timedelta(seconds=seconds_ago)
    with create_session() as session:
        session.execute(update(Job).where(Job.id == job).values(latest_heartbeat=beat))


THRESHOLD = 3000
"""Seconds of silence after which a scheduler counts as dead: far more than a test takes."""


@pytest.fixture(autouse=True)
def no_row_locks(airflow_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow is told to take none."""
    monkeypatch.setattr(dialect, "USE_ROW_LEVEL_LOCKING", False)
    monkeypatch.setenv("AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD", str(THRESHOLD))


def waits_of(job: int) -> list[float]:
    """Let *job* look for earlier schedulers; return the waits between two looks, when it has found none."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        assert len(waits) < 10, "it waits for somebody who is no obstacle"

    refuse_second_scheduler(job, wait)
    return waits


def test_a_scheduler_that_beats_is_respected() -> None:
    first = new_job(seconds_ago=500)
    with pytest.raises(
        SecondScheduler, match=f"job {first} on host first.example.org is alive: stop it first"
    ):
        refuse_second_scheduler(new_job(), lambda _: set_heartbeat(first, 0))


def test_a_scheduler_that_is_silent_too_long_is_replaced() -> None:
    first = new_job(seconds_ago=1500)
    looks: list[int] = []

    def time_passes(_seconds: float) -> None:
        looks.append(1)
        if len(looks) == 3:
            set_heartbeat(first, THRESHOLD + 1)

    refuse_second_scheduler(new_job(), time_passes)
    assert len(looks) == 3


def test_who_waits_stays_alive_in_the_eyes_of_later_ones() -> None:
    first = new_job(seconds_ago=500)
    second = new_job(seconds_ago=2500)
    refuse_second_scheduler(second, lambda _: set_heartbeat(first, THRESHOLD + 1))
    with create_session() as session:
        beat = session.get(Job, second).latest_heartbeat
    assert timezone.utcnow() - beat < timedelta(seconds=2000)


@pytest.mark.parametrize(
    ("state", "seconds_ago"), [("success", 0), ("failed", 0), ("running", THRESHOLD + 1)]
)
def test_what_is_over_is_nobodys_obstacle(state: str, seconds_ago: float) -> None:
    new_job(state, seconds_ago)
    assert waits_of(new_job()) == []


def test_a_later_scheduler_is_the_one_to_go() -> None:
    first = new_job()
    later = new_job()
    assert waits_of(first) == []
    with pytest.raises(SecondScheduler, match=f"job {first} "):
        refuse_second_scheduler(later, lambda _: set_heartbeat(first, -1))


def test_with_row_locks_any_number_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "USE_ROW_LEVEL_LOCKING", True)
    new_job()
    assert waits_of(new_job()) == []
