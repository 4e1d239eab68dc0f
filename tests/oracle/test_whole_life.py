"""Both schedulers take the same dags, from queued runs to their end, to the same states."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.callback import Callback
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskreschedule import TaskReschedule
from airflow.utils.session import create_session
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from tests.oracle.dags import RULES
from tests.oracle.test_critical_section import clear
from tests.support.dags import EPOCH, create_run, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, run_stock_until_idle, run_until_idle

if TYPE_CHECKING:
    from airflow.models.taskinstancekey import TaskInstanceKey

    from tests.support.postgres import Database

numbers = itertools.count()
ENDS = ("success", "success", "success", "failed", "skipped", "retried", "rescheduled")


@dataclass(frozen=True, slots=True)
class Step:
    """A task: what it waits for and how its tries end."""

    upstream: tuple[int, ...]
    rule: str
    empty: bool
    end: str
    past: bool


@st.composite
def stories(draw: st.DrawFn) -> tuple[tuple[Step, ...], bool]:
    """Draw a dag, and whether it has callbacks."""
    steps = []
    for number in range(draw(st.integers(2, 7))):
        upstream = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        steps.append(
            Step(
                tuple(sorted(upstream)),
                draw(st.sampled_from(RULES)),
                draw(st.integers(0, 3)) == 0,
                draw(st.sampled_from(ENDS)),
                draw(st.integers(0, 7)) == 0,
            )
        )
    return tuple(steps), draw(st.booleans())


class Worker(InstantExecutor):
    """Ends every try as the step says: at once, at the second try, or after a reschedule."""

    ends: dict[str, str]

    def _run(self, key: TaskInstanceKey, ti_id: Any) -> None:
        now = datetime.now(UTC)
        end = type(self).ends[key.task_id]
        values: dict[str, Any] = {"state": end, "start_date": now, "end_date": now, "pid": 1}
        if end == "retried":
            values["state"] = "up_for_retry" if key.try_number == 1 else "success"
        elif end == "rescheduled":
            values["state"] = "success" if self.runs[key] > 1 else "up_for_reschedule"
        with create_session() as session:
            started = session.execute(
                update(TaskInstance)
                .where(TaskInstance.id == ti_id, TaskInstance.state == "queued")
                .values(values)
            )
            if not started.rowcount:
                self.unqueued.append(key)
            if values["state"] == "up_for_reschedule":
                session.add(TaskReschedule(ti_id=ti_id, start_date=now, end_date=now, reschedule_date=now))
        self.change_state(key, "failed" if end == "failed" else "success")


def _callback(_context: Any) -> None:
    return None


def store(steps: tuple[Step, ...], callbacks: bool) -> None:
    """Store the dag and three queued runs of it."""
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG

    called = _callback if callbacks else None
    with DAG(
        f"dag_{next(numbers)}",
        start_date=EPOCH,
        schedule=None,
        on_success_callback=called,
        on_failure_callback=called,
    ) as dag:
        operators = [
            EmptyOperator(
                task_id=f"t{number}",
                trigger_rule=step.rule,
                retries=1,
                retry_delay=timedelta(0),
                depends_on_past=step.past,
                on_execute_callback=None if step.empty else _callback,
            )
            for number, step in enumerate(steps)
        ]
        for number, step in enumerate(steps):
            for parent in step.upstream:
                operators[parent].set_downstream(operators[number])
    write_dags(dag)
    for number in range(3):
        create_run(dag.dag_id, number)


def end_of(steps: tuple[Step, ...], callbacks: bool, *, ours: bool) -> tuple[Any, ...]:
    """Let one scheduler take the runs to their end and return the end."""
    store(steps, callbacks)
    Worker.ends = {f"t{number}": step.end for number, step in enumerate(steps)}
    executor = Worker()
    if ours:
        run_until_idle([executor], replace(FAST, algorithm="redesigned", sweep_interval=0.2), idle_rounds=8)
    else:
        # To a loop of its that only flags, or ends empty tasks, it has done nothing: one for each level.
        run_stock_until_idle([executor], idle_rounds=12)
    assert not executor.unqueued
    c, r = TaskInstance.__table__.c, DagRun.__table__.c
    with create_session() as session:
        instances = session.execute(
            select(c.run_id, c.task_id, c.state, c.try_number, c.start_date.is_not(None)).order_by(
                c.run_id, c.task_id
            )
        )
        runs = session.execute(select(r.run_id, r.state, r.end_date.is_not(None)).order_by(r.id))
        kinds = [_kind(callback) for callback in session.scalars(select(Callback))]
        seen = [tuple(row) for row in instances], [tuple(row) for row in runs], Counter(kinds)
        session.execute(delete(Callback))
    clear()
    return seen


def _kind(callback: Callback) -> tuple[Any, ...]:
    data = callback.data["req_data"]
    return callback.data["req_class"], '"is_failure_callback":true' in data, '"last_ti":null' in data


def is_order_sensitive(steps: tuple[Step, ...], end: tuple[Any, ...]) -> bool:
    """Whether some task saw a skip and a failure: which comes first decides how it ends."""
    states = {(run, task): state for run, task, state, *_ in end[0]}
    for number, step in enumerate(steps):
        for run in {run for run, _ in states}:
            upstream = {states[run, f"t{parent}"] for parent in step.upstream}
            if "skipped" in upstream and upstream & {"failed", "upstream_failed"} and number:
                return True
    return False


def agree(steps: tuple[Step, ...], callbacks: bool) -> None:
    """Assert that both schedulers bring the runs to the same end."""
    expected = end_of(steps, callbacks, ours=False)
    assume(not is_order_sensitive(steps, expected))
    assert end_of(steps, callbacks, ours=True) == expected


@given(story=stories())
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_both_come_to_the_same_end(airflow_db: Database, story: tuple[tuple[Step, ...], bool]) -> None:
    agree(*story)


@pytest.mark.deep
@pytest.mark.parametrize("part", range(3), ids="abc".__getitem__)  # side by side: an example waits a lot
@given(story=stories())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(3000)
def test_both_come_to_the_same_end_deeply(
    airflow_db: Database, part: int, story: tuple[tuple[Step, ...], bool]
) -> None:
    agree(*story)
