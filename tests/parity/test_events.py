"""What executors report: both schedulers make the same of the same events."""

from __future__ import annotations

import itertools
import logging
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.asset import AssetAliasModel, AssetEvent, AssetModel
from airflow.models.callback import (
    Callback,
    CallbackFetchMethod,
    CallbackKey,
    CallbackState,
    ExecutorCallback,
)
from airflow.models.connection_test import ConnectionTestKey
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.taskreschedule import TaskReschedule
from airflow.sdk.definitions.callback import SyncCallback
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select, update

from tests.parity.listening import Lines
from tests.parity.world import World, both
from tests.support.dags import EPOCH

FAILED, SUCCESS = TaskInstanceState.FAILED, TaskInstanceState.SUCCESS
QUEUED, RUNNING = TaskInstanceState.QUEUED, TaskInstanceState.RUNNING
FOUND = (None, *TaskInstanceState)
REPORTED = (FAILED, SUCCESS, QUEUED, RUNNING, TaskInstanceState.RESTARTING)
PAIRS = list(itertools.product(FOUND, REPORTED))


def _callback(_context: Any) -> None:
    return None


def stuck(w: World, task: str = "a", state: str | None = "queued", **columns: Any) -> None:
    """Let *task* be in *state*, queued by this scheduler, at its first try."""
    values = {"try_number": 1, "queued_by_job_id": w.job, "queued_dttm": EPOCH, **columns}
    if state == "running":
        values.setdefault("start_date", EPOCH)
    w.ti(task, state, **values)


@both()
@pytest.mark.parametrize(
    "case", ["same", "later-try", "earlier-try", "other-job", "no-job", "has-task", "resumed"]
)
@pytest.mark.parametrize("retries", [0, 2])
def test_every_report_in_every_state(w: World, case: str, retries: int) -> None:
    tasks = [f"t{number}" for number, _ in enumerate(PAIRS)]
    w.compare_metrics("scheduler.tasks", "ti_failures", "operator_failures")
    w.dag(tasks={task: {"retries": retries} for task in tasks})
    w.run()
    columns: dict[str, Any] = {"max_tries": retries, "external_executor_id": "old"}
    cases: dict[str, dict[str, Any]] = {
        "later-try": {"try_number": 2},
        "other-job": {"queued_by_job_id": 4711},
        "no-job": {"queued_by_job_id": None},
        "resumed": {"next_method": "execute_complete", "next_kwargs": {}},
    }
    columns |= cases.get(case, {})
    for task, (state, _) in zip(tasks, PAIRS, strict=True):
        stuck(w, task, state, **columns)
    keys = [w.key(task, tries=2 if case == "earlier-try" else 1) for task in tasks]
    if case == "has-task":
        w.executors[0].running.update(keys)
    events = [(key, reported) for key, (_, reported) in zip(keys, PAIRS, strict=True)]
    # In one batch Airflow loses the ids: what it does about a killed task closes its session.
    w.report(*(event for event in events if event[1] in (QUEUED, RUNNING)))
    w.report(*(event for event in events if event[1] not in (QUEUED, RUNNING)))
    assert w.states()["success"] >= 5


@both()
@pytest.mark.parametrize("info", [None, "celery-1"])
@pytest.mark.parametrize("reported", [QUEUED, RUNNING])
def test_the_executors_id(w: World, info: str | None, reported: Any) -> None:
    w.dag(tasks="a b c")
    w.run()
    stuck(w, "a")
    stuck(w, "b", "running", external_executor_id="old")
    stuck(w, "c", try_number=2, external_executor_id="old")
    w.report(*((w.key(task), (reported, info)) for task in "abc"))
    assert w.count(TaskInstance, TaskInstance.external_executor_id == "old") == 0


CALLBACKS: dict[str, dict[str, Any]] = {
    "none": {},
    "failure": {"on_failure_callback": _callback},
    "retry": {"on_retry_callback": _callback},
    "email": {"email": "a@example.com"},
    "email-failure": {"email": "a@example.com", "email_on_retry": False},
    "email-none": {"email": "a@example.com", "email_on_retry": False, "email_on_failure": False},
}


@both()
@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("state", ["queued", "running"])
def test_callbacks_of_killed_tasks(w: World, retries: int, state: str) -> None:
    w.dag(tasks={name: {"retries": retries, **options} for name, options in CALLBACKS.items()})
    w.run()
    for name in CALLBACKS:
        stuck(w, name, state, max_tries=retries)
    for name in CALLBACKS:  # one by one: sending a callback ends Airflow's session
        w.report((w.key(name), (FAILED, "told so")))
    assert w.states() == {"up_for_retry" if retries else "failed": len(CALLBACKS)}
    assert w.count(Log, Log.event == "state mismatch") == len(CALLBACKS)


@both()
@pytest.mark.parametrize("version", [None, "v1"])
def test_the_bundle_version_is_the_runs(w: World, version: str | None) -> None:
    w.dag(tasks={"a": {"on_failure_callback": _callback, "email": "a@example.com"}})
    w.run(bundle_version=version)
    with w.rows() as session:
        session.execute(update(DagVersion).values(bundle_version="hash"))
    stuck(w)
    w.report((w.key(), FAILED))
    assert w.count(Callback) == 2


@both()
@pytest.mark.parametrize("reported", [FAILED, SUCCESS])
def test_a_cleared_running_task(w: World, reported: Any) -> None:
    w.dag(tasks={"a": {"retries": 2}})
    w.run()
    stuck(w, state="restarting", try_number=4, max_tries=3)
    w.report((w.key(tries=4), reported))
    assert w.state() == (None if reported is SUCCESS else "up_for_retry")


@both(differing=["/rows/task_instance/0/max_tries"])
def test_a_cleared_running_task_with_a_callback(w: World) -> None:
    """Airflow's nested session closes the outer one, so that it loses what it sets after the callback."""
    w.dag(tasks={"a": {"retries": 2, "on_retry_callback": _callback}})
    w.run()
    stuck(w, state="restarting", try_number=4, max_tries=3)
    w.report((w.key(tries=4), SUCCESS))
    assert w.state() is None
    assert w.count(Callback) == 1


@both(differing=["/rows/task_instance/0/dag_version_id"])
def test_a_missing_version_is_filled_in(w: World) -> None:
    """For the same reason Airflow loses the version that it has just looked up."""
    w.dag(tasks={"a": {"on_failure_callback": _callback}})
    w.run()
    stuck(w, dag_version_id=None)
    w.report((w.key(), FAILED))
    assert w.state() == "failed"


@both()
def test_several_tries_at_once(w: World) -> None:
    w.dag(tasks="a b")
    w.run()
    for task in "ab":
        stuck(w, task, try_number=2)
    w.report(
        (w.key("a", 1), SUCCESS), (w.key("a", 2), FAILED), (w.key("b", 2), FAILED), (w.key("b", 1), SUCCESS)
    )
    assert w.state("a") == "failed"


@both()
@pytest.mark.parametrize("missing", ["serialized", "task", "instance"])
def test_what_is_missing(w: World, missing: str) -> None:
    w.dag(tasks={"a": {"on_failure_callback": _callback}})
    w.run()
    stuck(w)
    key = w.key()
    with w.rows() as session:
        if missing == "serialized":
            session.query(SerializedDagModel).delete()
        elif missing == "instance":
            session.query(TaskInstance).delete()
    if missing == "task":
        w.ti(task_id="gone")
        key = w.key("gone")
    w.report((key, FAILED))
    assert w.states() == ({} if missing == "instance" else {"failed": 1})


@both()
def test_several_killed_tasks_with_callbacks(w: World) -> None:
    """Sending a callback ends Airflow's transaction in between; what becomes of the others is the same."""
    w.dag(tasks={task: {"on_failure_callback": _callback, "retries": int(task == "b")} for task in "abcd"})
    w.run()
    for task in "abcd":
        stuck(w, task, max_tries=int(task == "b"))
    w.report(*((w.key(task), FAILED) for task in "abcd"))
    assert w.states() == {"failed": 3, "up_for_retry": 1}


@both()
def test_what_failed_running_gets_a_history(w: World) -> None:
    w.dag(tasks={"a": {"retries": 2}, "b": {"retries": 2}})
    w.run()
    stuck(w, "a", "running", max_tries=2, next_method="resume", next_kwargs={})
    stuck(w, "b", max_tries=2)
    with w.rows() as session:
        for instance in session.scalars(select(TaskInstance)):
            session.add(TaskReschedule(instance.id, EPOCH, EPOCH, EPOCH))
    w.report((w.key("a"), FAILED), (w.key("b"), FAILED))
    assert w.count(TaskInstanceHistory) == 1


@both()
def test_fail_fast(w: World) -> None:
    w.dag(tasks="a b c d e", edges="a>e", fail_fast=True)
    w.run()
    for task, state in zip("abc", ("queued", "running", "queued"), strict=True):
        stuck(w, task, state)
    w.report((w.key("a"), FAILED))
    assert w.state("b") == "failed"


@both()
def test_other_reports(w: World) -> None:
    """Keys of connection tests and of nothing known, and states that say nothing."""
    w.dag()
    w.run()
    stuck(w)
    w.report(
        (w.key(), TaskInstanceState.DEFERRED), (str(uuid4()), SUCCESS), (ConnectionTestKey("x"), SUCCESS)
    )
    assert w.state() == "queued"


@both()
@pytest.mark.parametrize("reported", ["running", "success", "failed", "pending"])
@pytest.mark.parametrize("found", ["queued", "running", "success"])
def test_reports_about_callbacks(w: World, reported: str, found: str) -> None:
    with w.rows() as session:
        made = ExecutorCallback(SyncCallback(_callback), CallbackFetchMethod.IMPORT_PATH)
        made.state = found
        session.add(made)
        session.flush()
        key = CallbackKey(str(made.id))
    w.report((key, (CallbackState(reported), "told so")))
    assert w.count(Callback) == 1


@both()
def test_context_of_consumed_events(w: World) -> None:
    w.dag(tasks={"a": {"on_failure_callback": _callback}})
    run = w.run()
    stuck(w, state="running")
    with w.rows() as session:
        asset = AssetModel(name="one", uri="x://one", group="asset", extra={})
        alias = AssetAliasModel(name="alias", group="")
        session.add_all([asset, alias])
        session.flush()
        event = AssetEvent(asset_id=asset.id, extra={"k": 1}, source_dag_id="other", timestamp=EPOCH)
        event.source_aliases = [alias]
        session.add(event)
        dag_run = session.get(DagRun, run.id)
        assert dag_run
        dag_run.consumed_asset_events.append(event)
    w.report((w.key(), FAILED))
    assert w.count(Callback) == 1


@both()
def test_the_line_that_tools_parse(w: World) -> None:
    """Once for each task instance an executor is done with, whatever becomes of it."""
    w.dag(tasks="a b c d")
    w.run()
    for task, state in zip("abcd", ("success", "queued", "deferred", "failed"), strict=True):
        stuck(w, task, state, hostname="host", pid=7, start_date=EPOCH, end_date=EPOCH)
    w.ti("d", try_number=2)
    lines, name = Lines(), "airflow.jobs.scheduler_job_runner.SchedulerJobRunner"
    given = classmethod(lambda _: logging.getLogger(name))
    with patch.object(SchedulerJobRunner, "logger", given), lines.of(name):
        w.report(*((w.key(task), SUCCESS) for task in "abcd"))
    w.note(*lines.about("TaskInstance Finished", "try_number mismatch"))
    assert len(lines.about("TaskInstance Finished")) == 4
