"""How runs end: callbacks, time-outs, deadlines, listeners, spans. Both schedulers do and send the same."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.listeners import hookimpl
from airflow.listeners.listener import get_listener_manager
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.callback import (
    Callback,
    CallbackFetchMethod,
    ExecutorCallback,
)
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator
from airflow.sdk.definitions.callback import AsyncCallback, SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.utils.session import create_session
from sqlalchemy import select, update

from tests.parity.arms import Scripted
from tests.parity.listening import Lines
from tests.parity.test_queueing import two
from tests.parity.world import DAY, ENDED, World, both, in_a_thread
from tests.support.dags import EPOCH, write_dags


def _callback(_context: Any) -> None:
    return None


async def notify() -> None:
    """Stands for what a user does about a missed deadline."""


def notify_executor() -> None:
    """The same, run by an executor."""


BOTH: dict[str, Any] = {"on_success_callback": _callback, "on_failure_callback": _callback}

ENDS: dict[str, tuple[str | None, ...]] = {
    # states of a, b and c, of which c is below a and b
    "success": ("success", "success", "success"),
    "failed": ("failed", "success", "upstream_failed"),
    "skipped": ("skipped", "skipped", "skipped"),
    "deadlock": ("absent", "success", None),
    "last-failed": ("success", "success", "failed"),
}


def store_ends(w: World, **columns: Any) -> None:
    """Store a run of a, b and c for each of these ends."""
    for number, states in enumerate(ENDS.values()):
        w.run(number=number, **columns)
        for hour, (task, state) in enumerate(zip("abc", states, strict=True)):
            if state == "absent":
                w.remove(task, number)
            else:
                ended = {**ENDED, "end_date": EPOCH + timedelta(hours=hour)}
                w.ti(task, state, run=number, try_number=1, **ended)


@both()
@pytest.mark.parametrize("callbacks", ["both", "success", "failure", "none"])
def test_callbacks(w: World, callbacks: str) -> None:
    chosen: dict[str, Any] = {
        name: called for name, called in BOTH.items() if callbacks in ("both", name.split("_")[1])
    }
    w.dag(tasks="a b c", edges="a>c b>c", **chosen)
    store_ends(w)
    w.schedule()
    assert w.count(Callback) == {"both": 5, "success": 2, "failure": 3, "none": 0}[callbacks]


@both()
@pytest.mark.parametrize("missing", ["version", "dag", "bundle"])
def test_callbacks_of_odd_runs(w: World, missing: str) -> None:
    w.dag(**BOTH)
    w.run(bundle_version="v1" if missing == "bundle" else None)
    w.ti(state="success", **ENDED)
    with w.rows() as session:
        session.execute(update(DagVersion).values(bundle_version="hash"))
    if missing == "version":
        w.run(number=1)
        w.ti(run=1, state="success", dag_version_id=None, **ENDED)
    elif missing == "dag":
        with w.rows() as session:
            session.query(SerializedDagModel).delete()
    w.schedule()
    assert w.count(Callback) == {"version": 2, "dag": 0, "bundle": 1}[missing]


@both()
def test_callbacks_with_consumed_events(w: World) -> None:
    w.dag(**BOTH)
    run = w.run()
    w.ti(state="success", **ENDED)
    consume(w, run)
    w.schedule()
    assert w.count(Callback) == 1


@both()
def test_callbacks_are_not_seen_before_the_end_of_their_run(w: World) -> None:
    w.dag(**BOTH)
    w.run()
    w.ti(state="success", **ENDED)
    send, seen = DatabaseCallbackSink.send, []

    def look() -> None:
        with create_session(scoped=False) as session:
            sent = len(session.scalars(select(Callback)).all())
            seen.append((str(session.scalar(select(DagRun.state))), sent))

    def sending(self: Any, *args: Any, **kwargs: Any) -> None:
        in_a_thread(look)
        send(self, *args, **kwargs)
        in_a_thread(look)

    with patch.object(DatabaseCallbackSink, "send", sending):
        w.schedule()
    assert len(seen) == 2
    assert ("running", 1) not in seen, "one who runs the callback must find the run ended"
    look()
    assert seen[-1] == ("success", 1)


def consume(w: World, run: DagRun) -> None:
    """Let the run have consumed an asset event."""
    with w.rows() as session:
        asset = AssetModel(name="one", uri="x://one", group="asset", extra={})
        session.add(asset)
        session.flush()
        event = AssetEvent(asset_id=asset.id, extra={"k": 1}, source_dag_id="other", timestamp=EPOCH)
        session.add(event)
        found = session.get(DagRun, run.id)
        assert found
        found.consumed_asset_events.append(event)


# --- time-outs --------------------------------------------------------------------------------------------


@both()
@pytest.mark.parametrize("callbacks", [False, True])
@pytest.mark.parametrize("kind", ["scheduled", "manual", "backfill"])
def test_runs_that_time_out(w: World, callbacks: bool, kind: str) -> None:
    w.compare_metrics("dagrun.duration")
    options: dict[str, Any] = BOTH if callbacks else {}
    w.dag(
        tasks="a b c d e",
        edges="a>b",
        dagrun_timeout=DAY,
        schedule="@daily",
        max_active_runs=1,
        catchup=True,
        **options,
    )
    w.of_dag(exceeds_max_non_backfill=True)
    run = w.run(run_type=kind, clear_number=1)
    for hour, (task, state) in enumerate(
        zip("acde", ("running", "success", "deferred", "up_for_retry"), strict=True)
    ):
        w.ti(task, state, start_date=EPOCH + timedelta(hours=hour))
    consume(w, run)
    w.schedule()
    w.check()
    w.create()
    assert w.runs()[0] == "failed"


@both()
def test_runs_that_do_not_time_out(w: World) -> None:
    w.dag(dagrun_timeout=DAY)
    w.run(start_date=w.now - timedelta(hours=23))
    w.run(number=1, start_date=None)
    w.schedule()
    assert w.runs() == ["running", "running"]


# --- listeners, log lines and spans -----------------------------------------------------------------------


class Heard:
    """Notes what a listener is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def _note(self, kind: str, dag_run: Any, msg: str) -> None:
        state = str(getattr(dag_run.state, "value", dag_run.state))
        self.calls.append((kind, dag_run.run_id, state, dag_run.end_date is not None, msg))

    @hookimpl  # type: ignore[untyped-decorator]
    def on_dag_run_running(self, dag_run: Any, msg: str) -> None:
        """Note it."""
        self._note("running", dag_run, msg)

    @hookimpl  # type: ignore[untyped-decorator]
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """Note it."""
        self._note("success", dag_run, msg)

    @hookimpl  # type: ignore[untyped-decorator]
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """Note it."""
        self._note("failed", dag_run, msg)


@both()
@pytest.mark.parametrize("callbacks", [False, True])
def test_listeners(w: World, callbacks: bool) -> None:
    options: dict[str, Any] = BOTH if callbacks else {}
    w.dag(tasks="a b c", edges="a>c b>c", dagrun_timeout=DAY, **options)
    heard = Heard()
    get_listener_manager().add_listener(heard)
    try:
        store_ends(w, start_date=w.now)
        w.run(number=10)
        w.run(number=11, state="queued")
        w.start()
        w.schedule()
        w.listened()
    finally:
        get_listener_manager().clear()
    w.note(sorted(heard.calls))
    assert len(heard.calls) == 7


@both()
def test_log_lines(w: World) -> None:
    """Those that tools parse: the end of a run, of a task instance, a time-out, a deadlock."""
    w.dag(tasks="a b c", edges="a>c b>c", dagrun_timeout=DAY)
    store_ends(w, start_date=w.now - timedelta(hours=1))
    w.run(number=10)
    lines, name = Lines(), "airflow.models.dagrun.DagRun"
    with patch.object(DagRun, "log", logging.getLogger(name)), lines.of(name):
        w.schedule()
    durations = re.compile(r"run_duration=[\d.]+")
    w.note(*(durations.sub("", line) for line in lines.about("DagRun Finished", "Marking run", "deadlock")))
    assert lines.about("DagRun Finished")


@both()
def test_spans(w: World) -> None:
    """A span for each run that ends by its task instances, from its own carrier; none on a time-out."""
    w.dag(tasks="a b c", edges="a>c b>c", dagrun_timeout=DAY)
    store_ends(w, start_date=w.now)
    w.run(number=10)
    w.run(number=11, start_date=w.now)
    spans: list[Any] = []

    def note(self: Any, state: Any) -> None:
        spans.append((self.run_id, str(getattr(state, "value", state)), self.end_date is not None))

    with patch.object(DagRun, "_emit_dagrun_span", note):
        w.schedule()
    w.note(sorted(spans))
    assert len(spans) == len(ENDS)


# --- deadlines --------------------------------------------------------------------------------------------


def deadline_dag(interval: Any, reference: Any = None, callback: Any = None, **options: Any) -> None:
    """Store a dag with a deadline."""
    alert = DeadlineAlert(
        reference=reference or DeadlineReference.DAGRUN_QUEUED_AT,
        interval=interval,
        callback=callback or AsyncCallback(notify),
    )
    with DAG("dag", deadline=alert, **{"start_date": EPOCH, "schedule": None, **options}) as dag:
        BaseOperator(task_id="a")
    write_dags(dag)


@both()
@pytest.mark.parametrize("state", ["success", "failed"])
@pytest.mark.parametrize("callbacks", [False, True])
def test_deadlines_of_ended_runs(w: World, state: str, callbacks: bool) -> None:
    w.compare_metrics("deadline_alerts")
    options: dict[str, Any] = BOTH if callbacks else {}
    deadline_dag(DAY, **options)
    w.run()
    w.run(number=1)
    w.ti(state=state, **ENDED)
    with w.rows() as session:
        session.execute(update(Deadline).values(deadline_time=datetime(2099, 1, 1, tzinfo=UTC)))
    w.schedule()
    assert w.count(Deadline) == (1 if state == "success" else 2)


@both()
@pytest.mark.parametrize(
    "reference",
    [
        DeadlineReference.DAGRUN_QUEUED_AT,
        DeadlineReference.DAGRUN_LOGICAL_DATE,
        DeadlineReference.AVERAGE_RUNTIME(2, 1),
        DeadlineReference.FIXED_DATETIME(datetime(2099, 1, 1, tzinfo=UTC)),
    ],
    ids=["queued", "logical", "average", "fixed"],
)
def test_deadlines_of_new_runs(w: World, reference: Any) -> None:
    w.compare_metrics("deadline_alerts")
    deadline_dag(timedelta(minutes=5), reference, schedule="@daily", catchup=True, max_active_runs=2)
    w.create()
    w.note(w.count(Deadline))
    assert len(w.runs()) == 2


@both()
def test_missed_deadlines(w: World) -> None:
    w.compare_metrics("deadline_alerts")
    deadline_dag(DAY)
    deadlines = [(-60, False), (-60, False), (60, False), (-60, True)]
    for number, (minutes, missed) in enumerate(deadlines):
        run = w.run(number=number)
        with w.rows() as session:
            when = w.now + timedelta(minutes=minutes)
            of_run = Deadline.dagrun_id == run.id
            session.execute(update(Deadline).where(of_run).values(deadline_time=when, missed=missed))
    w.step("deadlines")
    assert w.count(Deadline, Deadline.missed) == 3


@both(two())
@pytest.mark.parametrize("executor", [None, "second", "gone"])
def test_missed_deadlines_with_executor_callbacks(w: World, executor: str | None) -> None:
    deadline_dag(DAY, callback=SyncCallback(notify_executor, executor=executor))
    w.run()
    with w.rows() as session:
        session.execute(update(Deadline).values(deadline_time=EPOCH))
    for one in w.executors:
        type(one).supports_callbacks = True
    w.step("deadlines")
    w.check()
    w.step("executor_callbacks")
    assert w.count(Deadline, Deadline.missed) == 1


@both()
def test_which_executor_callbacks_are_queued(w: World) -> None:
    w.dag()
    run = w.run()
    Scripted.supports_callbacks = True
    for state in ("scheduled", "pending", "queued", "running", "success"):
        made = ExecutorCallback(SyncCallback(notify_executor), CallbackFetchMethod.IMPORT_PATH)
        made.state = state
        made.data = {**made.data, "dag_run_id": run.id, "deadline_id": "x", "dag_id": "dag"}
        w.add(made)
    w.step("executor_callbacks")
    assert w.count(Callback, Callback.state == "queued") == 2


@both()
def test_a_missed_deadline_that_another_scheduler_has(w: World) -> None:
    deadline_dag(DAY)
    w.run()
    w.run(number=1)
    with w.rows() as session:
        session.execute(update(Deadline).values(deadline_time=EPOCH))
    with create_session(scoped=False) as other:
        other.execute(select(Deadline.id).limit(1).with_for_update())
        w.step("deadlines")
    assert w.count(Deadline, Deadline.missed) == 1


@both()
@pytest.mark.parametrize("executor", ["", "x"])
def test_odd_executor_callbacks(w: World, executor: str) -> None:
    """Without a run, and with one that is gone: they stay."""
    made = ExecutorCallback(SyncCallback(notify_executor), CallbackFetchMethod.IMPORT_PATH)
    made.state = "pending"
    if executor:
        made.data = {**made.data, "dag_run_id": "4711", "deadline_id": "x", "dag_id": "dag"}
    w.add(made)
    w.step("executor_callbacks")
    assert w.count(Callback, Callback.state == "pending") == 1
