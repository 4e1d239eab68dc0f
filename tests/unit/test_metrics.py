"""The metrics added to Airflow's own, by name, unit and tags."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow._shared.observability.metrics import stats

from async_scheduler import metrics
from async_scheduler.driver.routine import Outcome

Sent = list[tuple[Any, ...]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What is reported, in order."""
    reported: Sent = []
    monkeypatch.setattr(stats, "timing", lambda name, value, tags=None: reported.append((name, value, tags)))
    monkeypatch.setattr(stats, "incr", lambda name, count=1, tags=None: reported.append((name, count, tags)))
    return reported


def test_a_pass_reports_its_duration_and_what_it_did(sent: Sent) -> None:
    metrics.StatsObserver().passed("schedule", 0.25, Outcome({"examined": 3, "ended": 0}))
    assert sent == [
        ("async_scheduler.routine.duration", timedelta(seconds=0.25), {"routine": "schedule"}),
        ("async_scheduler.routine.count", 3, {"routine": "schedule", "what": "examined"}),
    ]


def test_retries_waits_lag_and_rounds(sent: Sent) -> None:
    metrics.StatsObserver().retried("enqueue", "lost race")
    metrics.report_pool_wait(0.5)
    metrics.report_loop_lag(0.125)
    metrics.report_round(2.0)
    assert sent == [
        ("async_scheduler.routine.retries", 1, {"routine": "enqueue", "fault": "lost_race"}),
        ("async_scheduler.pool.wait", timedelta(seconds=0.5), None),
        ("async_scheduler.loop_lag", timedelta(seconds=0.125), None),
        ("scheduler.scheduler_loop_duration", timedelta(seconds=2), None),
    ]
