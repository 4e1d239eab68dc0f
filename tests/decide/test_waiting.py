"""Retry times are those of Airflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from async_scheduler.decide.plan import RetryDelay
from async_scheduler.decide.waiting import FailedTry, reschedule_waits, retry_due, retry_waits

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DELAYS = st.timedeltas(timedelta(0), timedelta(days=3))


@settings(deadline=None)
@given(
    delay=DELAYS,
    multiplier=st.sampled_from([0, 1.0, 2.0, 1.5, 0.5, 10.0, -1.0]),
    longest=st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=2)),
    tries=st.integers(1, 400),
    logical_date=st.sampled_from([None, NOW]),
    override=st.none() | st.floats(0, 5000),
)
def test_retry_falls_due_as_in_airflow(
    delay: timedelta,
    multiplier: float,
    longest: timedelta | None,
    tries: int,
    logical_date: datetime | None,
    override: float | None,
) -> None:
    from airflow.models.taskinstance import TaskInstance

    task = SimpleNamespace(retry_delay=delay, retry_exponential_backoff=multiplier, max_retry_delay=longest)
    instance = SimpleNamespace(
        dag_id="d",
        task_id="t",
        task=task,
        try_number=tries,
        end_date=NOW,
        retry_delay_override=override,
        logical_date=logical_date,
        log=SimpleNamespace(warning=lambda *_: None),
    )
    ours = retry_due(
        FailedTry("d", "t", logical_date, tries, NOW, override),
        RetryDelay(delay, multiplier or 1.0, longest),
        NOW,
    )
    assert ours == TaskInstance.next_retry_datetime(instance)


def test_a_retry_starts_after_its_time_a_reschedule_at_it() -> None:
    assert retry_waits(NOW, NOW)
    assert not retry_waits(NOW - timedelta(microseconds=1), NOW)
    assert not reschedule_waits(NOW, NOW)
    assert reschedule_waits(NOW + timedelta(microseconds=1), NOW)


def test_a_try_without_an_end_is_counted_from_now() -> None:
    failed = FailedTry("d", "t", None, 1, None)
    assert retry_due(failed, RetryDelay(timedelta(minutes=5)), NOW) == NOW + timedelta(minutes=5)
