"""Dags that change under their runs: both schedulers check the same runs and change the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from airflow import settings
from airflow.models import taskinstance
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.taskinstancehistory import TaskInstanceHistory
from sqlalchemy import select, update

from tests.parity.world import ENDED, World, both
from tests.support.dags import EPOCH


@contextmanager
def hooked(hook: Any) -> Iterator[None]:
    """Let *hook* be the task instance mutation hook, in both places where Airflow keeps it."""
    name = "task_instance_mutation_hook"
    with patch.object(settings, name, hook), patch.object(taskinstance, name, hook):
        yield


@both()
@pytest.mark.parametrize("state", [None, "success", "running", "queued", "deferred", "up_for_retry"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_new_version_under_a_run(w: World, state: str | None, pinned: bool) -> None:
    w.dag(tasks="a b c", edges="a>b")
    w.run(bundle_version="1" if pinned else None)
    w.ti("a", state, **(ENDED if state in ("success", "up_for_retry") else {}))
    w.dag(tasks="a b d", edges="a>b b>d")
    w.schedule()
    with w.rows() as session:
        added = session.scalars(select(TaskInstance.task_id).where(TaskInstance.task_id == "d")).all()
    assert len(added) == (not pinned)


@both()
def test_an_unchanged_dag_is_not_checked(w: World) -> None:
    w.dag(tasks="a b", edges="a>b")
    w.run()
    checked = []
    with patch.object(DagRun, "verify_integrity", lambda *_, **__: checked.append(1)):
        w.schedule()
    assert not checked
    assert w.states() == {"scheduled": 1, None: 1}


@both()
@pytest.mark.parametrize("state", [None, "success", "running", "skipped"])
def test_a_task_that_is_removed_and_comes_back(w: World, state: str | None) -> None:
    w.dag(tasks="a b")
    w.run()
    w.ti("b", state)
    w.dag(tasks="a")
    w.schedule()
    w.check()
    w.dag(tasks="a b")
    w.schedule()
    assert w.runs() == ["running"]


@both()
def test_a_run_made_after_a_task_left(w: World) -> None:
    w.dag(tasks="a b")
    w.dag(tasks="a", schedule="@daily", catchup=True, max_active_runs=1)
    w.loop()
    assert w.count(TaskInstance) == 1


@both()
def test_a_cleared_run_without_one_of_its_tasks(w: World) -> None:
    w.dag(tasks="a b c", edges="a>b b>c")
    w.run(state="success")
    for name in "abc":
        w.ti(name, "success", try_number=1, **ENDED)
    w.dag(tasks="a c", edges="a>c")
    with w.rows() as session:
        clear_task_instances(list(session.scalars(select(TaskInstance))), session, run_on_latest_version=True)
    w.loop()
    w.check()
    for name in "ac":
        w.ti(name, "success", **ENDED)
        w.loop()
        w.check()
    assert w.runs() == ["success"]


@both()
def test_a_version_known_from_the_history_is_not_checked(w: World) -> None:
    w.dag(tasks="a b")
    w.run()
    w.dag(tasks="a b c")
    with w.rows() as session:
        newest = session.scalars(select(DagVersion).order_by(DagVersion.version_number.desc())).first()
        assert newest
        instance = session.scalars(select(TaskInstance).where(TaskInstance.task_id == "a")).one()
        instance.state = "failed"
        TaskInstanceHistory.record_ti(instance, session=session)
        session.flush()
        instance.state = None
        session.execute(update(TaskInstanceHistory).values(dag_version_id=newest.id))
    w.schedule()
    assert w.count(TaskInstance) == 2


@both()
@pytest.mark.parametrize("where", ["created", "checked"])
def test_a_hook_sees_every_instance(w: World, where: str) -> None:
    def hook(task_instance: Any, dag_run: Any = None) -> None:
        if task_instance.task_id == "a":
            task_instance.queue = "hooked"

    with hooked(hook):
        if where == "created":
            w.dag(tasks="a b", schedule="@daily", catchup=True, max_active_runs=2)
            w.create()
            w.start()
        else:
            w.dag(tasks="a b")
            w.run()
            w.dag(tasks="a b c")
        w.schedule()
    assert w.count(TaskInstance, TaskInstance.queue == "hooked")


@both()
def test_a_hook_sees_mapped_instances(w: World) -> None:
    from tests.parity.test_mapping import Taking, returned, source, store

    def hook(task_instance: Any, dag_run: Any = None) -> None:
        task_instance.queue = f"q{task_instance.map_index}"

    store(lambda: Taking.partial(task_id="m").expand(value=source()))
    w.run()
    returned(w, "source", 3)
    with hooked(hook):
        w.schedule()
    assert w.count(TaskInstance, TaskInstance.queue == "q2") == 1


@both()
@pytest.mark.parametrize("kind", ["manual", "scheduled", "backfill"])
def test_tasks_outside_their_dates(w: World, kind: str) -> None:
    from datetime import timedelta

    w.dag()
    w.run(run_type=kind)
    tasks: dict[str, Any] = {
        "a": {},
        "late": {"start_date": EPOCH + timedelta(days=5)},
        "early": {"end_date": EPOCH - timedelta(days=5)},
    }
    w.dag(tasks=tasks, start_date=EPOCH - timedelta(days=10))
    w.schedule()
    assert w.count(TaskInstance) == (3 if kind == "backfill" else 1)


@both()
@pytest.mark.parametrize("state", ["running", "success", "failed"])
def test_clearing_a_backfill_run(w: World, state: str) -> None:
    from tests.parity.test_starting import backfill

    w.dag()
    backfill(w, range(1))
    w.ti(state="success", try_number=1, **ENDED)
    with w.rows() as session:
        session.execute(DagRun.__table__.update().values(state=state))
        clear_task_instances(list(session.scalars(select(TaskInstance))), session)
    w.loop()
    assert w.runs() == ["running"]


@both()
def test_an_instance_somebody_else_added(w: World) -> None:
    w.dag(tasks="a")
    w.run()
    w.dag(tasks="a b")
    w.schedule()
    w.check()
    w.schedule()
    assert w.count(TaskInstance) == 2


@both()
def test_the_dag_disappears(w: World) -> None:
    from airflow.models.serialized_dag import SerializedDagModel

    w.dag("one")
    w.dag("two")
    w.run("one")
    w.run("two")
    with w.rows() as session:
        session.query(SerializedDagModel).filter_by(dag_id="two").delete()
    w.schedule()
    assert w.states() == {"scheduled": 1, None: 1}
