"""Both schedulers as a whole, from due dags to finished runs: the same rows, metrics under the same names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from airflow.observability.metrics import stats_utils
from airflow.sdk import DAG, BaseOperator

from tests.parity.arms import REDESIGNED
from tests.parity.listening import Metrics
from tests.parity.rows import Reading, differences, read, wipe
from tests.parity.world import DAY
from tests.support.dags import EPOCH, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import run_stock_until_idle, run_until_idle

OURS = ("async_scheduler.",)
"""Metrics of our own."""
TIMED = ("scheduler_heartbeat",)
"""Sent every few seconds: a life may be too short for it."""
OTHERWISE = {
    "scheduler.dag_bag.cache_hit": "plans take the place of the cache",
    "scheduler.dag_bag.cache_miss": "plans take the place of the cache",
    "scheduler.dag_bag.cache_size": "plans take the place of the cache",
}


def _run(ours: bool) -> tuple[dict[str, Any], set[Any], tuple[Any, ...]]:
    """Return the rows at the end, the metrics that were sent, and what became of the executor."""
    wipe()
    began, metrics = datetime.now(UTC), Metrics()
    with DAG(
        "dag", start_date=EPOCH, schedule=DAY, catchup=True, max_active_runs=3, end_date=EPOCH + 4 * DAY
    ) as dag:
        BaseOperator(task_id="a") >> [
            BaseOperator(task_id="b"),
            BaseOperator(task_id="c", depends_on_past=True),
        ]
    write_dags(dag)
    executor = InstantExecutor()
    with patch.object(stats_utils, "get_stats_factory", return_value=lambda: metrics):
        if ours:
            run_until_idle([executor], replace(REDESIGNED, sweep_interval=0.1), idle_rounds=8)
        else:
            run_stock_until_idle([executor], idle_rounds=4)
    sent = {key for key in metrics.sent if not key[0].startswith(OURS + TIMED)}
    given = (
        type(executor.callback_sink).__name__,
        executor.job_id,
        executor.ended,
        set(executor.runs.values()),
    )
    return read(Reading(began)), sent, given


def test_due_dags_to_finished_runs(parity_db: None) -> None:
    (expected, sent, executor), (ours, ours_sent, our_executor) = _run(ours=False), _run(ours=True)
    assert len(expected["dag_run"]) == 5
    assert {run["state"] for run in expected["dag_run"]} == {"success"}
    assert differences(expected, ours) == []
    assert executor == our_executor == ("DatabaseCallbackSink", 1, True, {1})
    assert "scheduler.executor_heartbeat_duration" in {name for name, _ in sent}
    assert {name for name, _ in sent - ours_sent} <= OTHERWISE.keys()
    assert {name for name, _ in ours_sent - sent} == set()
