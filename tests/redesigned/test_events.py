"""Executor events, each kind once, against the redesigned executor routine."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow._shared.timezones import timezone
from airflow.models.taskinstance import TaskInstance, uuid7
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.models.taskreschedule import TaskReschedule
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select, update

from async_scheduler.bridge.executor_port import Beat, ExecutorPort
from async_scheduler.database.transaction import transaction
from async_scheduler.routines.redesigned import events
from async_scheduler.store.events import load_reported
from tests.redesigned.test_stages import REDESIGNED, states, take_turns
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow.models.dagrun import DagRun

    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database

SUCCESS, FAILED, QUEUED = TaskInstanceState.SUCCESS, TaskInstanceState.FAILED, TaskInstanceState.QUEUED


def store(state: str | None, *, try_number: int = 1, job: int | None = None, **values: Any) -> DagRun:
    """Store a running run of one task whose instance is in *state*."""
    write_dags(layered_dag("dag", [1]))
    run = create_run("dag", state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(
            update(TaskInstance).values(state=state, try_number=try_number, queued_by_job_id=job, **values)
        )
    return run


def key(try_number: int = 1) -> TaskInstanceKey:
    """Return the key of that instance."""
    return TaskInstanceKey("dag", "l0_t0", "run_0", try_number, -1)


async def process(assembly: Assembly, *told: tuple[TaskInstanceKey, Any, Any]) -> int:
    """Give the routine these events, if any are given, and let it process what it has."""
    if told:
        assembly.ports[0].events = {event: (state, info) for event, state, info in told}
    routine: Any = assembly.supervisor.drivers["executor:InstantExecutor"].routine
    count: int = await routine.process_events()
    return count


def instance() -> TaskInstance:
    """Return the task instance."""
    with create_session() as session:
        return session.scalars(select(TaskInstance)).one()


async def test_an_event_that_agrees_marks_its_run_and_changes_nothing(
    airflow_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    run = store("success")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        with caplog.at_level(logging.INFO, "airflow.jobs.scheduler_job_runner.SchedulerJobRunner"):
            assert await process(assembly, (key(), SUCCESS, None)) == 1
        assert assembly.ports[0].events == {}
        assert assembly.redesigned is not None
        assert run.id in assembly.redesigned.dirty
    assert states() == {"success": 1}
    assert "TaskInstance Finished: dag_id=dag, task_id=l0_t0, run_id=run_0, map_index=-1" in caplog.text


def during_the_look(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let *act* happen before the routine reads what was reported."""

    async def look(*arguments: Any) -> Any:
        act()
        return await load_reported(*arguments)

    monkeypatch.setattr(events, "load_reported", look)


def know_from_its_workload(assembly: Assembly, run: DagRun) -> None:
    """Let the executor have been given the task instance by this scheduler."""
    port = assembly.ports[0]
    port.expect(key(), run.id)
    port.accept(SimpleNamespace(key=key(), ti=SimpleNamespace(id=instance().id)))
    port._workloads.clear()


async def test_a_run_known_from_its_workload_is_visited_before_the_events_are_looked_at(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store("success")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert assembly.redesigned is not None
        dirty, taken = assembly.redesigned.dirty, list[int]()
        schedule = assembly.supervisor.drivers["schedule"].wakeup
        schedule.clear()
        know_from_its_workload(assembly, run)

        def visit() -> None:
            assert schedule.is_set
            taken.extend(dirty.take(9, timezone.utcnow()))
            dirty.release(taken)

        during_the_look(monkeypatch, visit)
        assert await process(assembly, (key(), SUCCESS, None)) == 1
        assert taken == [run.id]
        assert run.id not in dirty, "one visit is enough"


async def test_events_that_stay_bring_one_visit(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert assembly.redesigned is not None
        dirty = assembly.redesigned.dirty
        run = store("running", job=assembly._scheduler.job.id)
        know_from_its_workload(assembly, run)
        with create_session(scoped=False) as somebody:
            somebody.execute(select(TaskInstance).with_for_update())
            assert await process(assembly, (key(), FAILED, None)) == 0
            dirty.release(dirty.take(9, timezone.utcnow()))
            assert await process(assembly) == 0
            wakeup = assembly.supervisor.drivers["schedule"].wakeup
            wakeup.clear()
            assert await process(assembly) == 0
            assert not wakeup.is_set


async def test_a_run_is_known_until_the_last_event_of_its_workload_is_settled() -> None:
    port = ExecutorPort(InstantExecutor(), wake=lambda: None)
    workload = SimpleNamespace(key=key(), ti=SimpleNamespace(id=1))
    port.expect(key(), 7)
    port.cease_to_expect(key())
    assert port.run_of(key()) is None, "it never came"
    port.expect(key(), 7)
    port.accept(workload)
    port.cease_to_expect(key())
    assert port.run_of(key()) == 7
    port._outstanding.clear()  # its end arrives, and it is queued again for the same try
    port.events = {key(): (SUCCESS, None)}
    port.expect(key(), 7)
    port.settle(key(), (SUCCESS, None))
    assert port.run_of(key()) == 7
    port.forget(key())
    assert port.run_of(key()) is None


async def test_a_run_whose_task_ended_after_the_event_was_heard_is_visited_again(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store("running")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert assembly.redesigned is not None
        dirty = assembly.redesigned.dirty
        know_from_its_workload(assembly, run)

        def end_after_the_visit() -> None:
            dirty.release(dirty.take(9, timezone.utcnow()))
            with create_session(scoped=False) as session:
                session.execute(update(TaskInstance).values(state="success", updated_at=timezone.utcnow()))

        during_the_look(monkeypatch, end_after_the_visit)
        assert await process(assembly, (key(), SUCCESS, None)) == 1
        assert run.id in dirty


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_task_that_ended_without_saying_so_is_failed(airflow_db: Database, state: str) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        run = store(state, job=assembly.redesigned._scheduler.job.id)  # type: ignore[union-attr]
        assert await process(assembly, (key(), SUCCESS, None)) == 1
        assert assembly.redesigned is not None
        assert run.id in assembly.redesigned.dirty
    assert states() == {"failed": 1}


async def test_an_event_for_a_task_that_another_scheduler_queued_again_changes_nothing(
    airflow_db: Database,
) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        store("queued", job=4711)
        assert await process(assembly, (key(), FAILED, None)) == 1
    assert states() == {"queued": 1}


@pytest.mark.parametrize(
    ("rescheduled", "event", "end"),
    [(True, SUCCESS, "scheduled"), (True, FAILED, "failed"), (False, SUCCESS, "failed")],
)
async def test_a_sensor_scheduled_again_before_its_stay_before_is_reported_is_not_taken_for_killed(
    airflow_db: Database, rescheduled: bool, event: Any, end: str
) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        store("scheduled", job=assembly.redesigned._scheduler.job.id)  # type: ignore[union-attr]
        if rescheduled:
            now = timezone.utcnow()
            with create_session() as session:
                session.add(TaskReschedule(session.scalars(select(TaskInstance.id)).one(), now, now, now))
        assert await process(assembly, (key(), event, None)) == 1
        assert assembly.ports[0].events == {}
    assert states() == {end: 1}


async def test_an_event_of_an_earlier_try_changes_nothing(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        store("queued", try_number=2, job=assembly.redesigned._scheduler.job.id)  # type: ignore[union-attr]
        assert await process(assembly, (key(1), FAILED, None)) == 1
    assert states() == {"queued": 1}


async def test_the_executors_id_is_stored(airflow_db: Database) -> None:
    store("queued")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert await process(assembly, (key(), QUEUED, "celery-1")) == 1
    assert instance().external_executor_id == "celery-1"
    assert states() == {"queued": 1}


async def test_events_of_locked_rows_are_not_lost(airflow_db: Database) -> None:
    run = store("success")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        with create_session(scoped=False) as other:
            other.execute(select(TaskInstance.id).with_for_update())
            assert await process(assembly, (key(), SUCCESS, None)) == 1
        assert assembly.redesigned is not None
        assert run.id in assembly.redesigned.dirty


async def test_events_of_deleted_rows_do_not_stay(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert await process(assembly, (key(), SUCCESS, None)) == 1
        assert assembly.ports[0].events == {}


async def test_of_several_tries_the_last_one_counts(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        store("queued", try_number=2, job=assembly.redesigned._scheduler.job.id)  # type: ignore[union-attr]
        await process(assembly, (key(1), SUCCESS, None), (key(2), FAILED, None))
    assert states() == {"failed": 1}


async def test_an_instance_is_found_by_its_id_and_after_a_retry_by_its_key(airflow_db: Database) -> None:
    store("success")
    wanted = {key().primary: instance().id}
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        for _ in range(2):
            async with transaction(assembly._sessions) as tx:
                (found,) = await load_reported(tx.session, wanted)
            assert (found.key, found.id) == (key().primary, instance().id)
            with create_session() as session:
                session.execute(update(TaskInstance).values(id=uuid7()))
            assert instance().id != wanted[key().primary]
        async with transaction(assembly._sessions) as tx:
            assert await load_reported(tx.session, {("dag", "gone", "run_0", -1): None}) == []


async def test_ids_are_forgotten_with_the_last_event(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LOOK_AFTER", 0.0)
    write_dags(layered_dag("dag", [1]))
    create_run("dag")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        port = assembly.ports[0]
        await take_turns(assembly)
        assert states() == {"success": 1}
        assert port.id_of(key()) is None


async def test_a_slow_executor_is_left_alone_for_as_long_as_its_last_beat_took(airflow_db: Database) -> None:
    """Else the next work would wait for another of its heartbeats more often than not."""
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        routine: Any = assembly.supervisor.drivers["executor:InstantExecutor"].routine
        assert routine.spacing() == events.SHORTEST_POLL
        assembly.ports[0]._beaten = Beat(0, 2.0)
        assert routine.spacing() == 2.0 * events.BEAT_SHARE


def is_listening(port: ExecutorPort) -> bool:
    """Whether the executor's thread waits for news."""
    return port.is_listening


async def test_an_executor_is_listened_to_while_it_has_work(airflow_db: Database) -> None:
    store("running")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        port = assembly.ports[0]
        routine: Any = assembly.supervisor.drivers["executor:InstantExecutor"].routine
        routine._poll_interval = 60.0
        assert routine.rest(0.02) == 0.02
        assert not is_listening(port), "it has nothing"
        port._outstanding[key()] = 1
        assert routine.rest(0.02) == 60.0
        assert is_listening(port)
        await port._thread.drain()
        port.events = {key(): (SUCCESS, None)}
        assert routine.rest(0.02) == 0.02
        assert not is_listening(port), "what was put back is tried again, news or not"


class Deferring:
    """The routine of an executor that has ended task instances of this scheduler, by a clock of ours."""

    def __init__(self, assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
        assert assembly.redesigned is not None
        self.assembly = assembly
        routine: Any = assembly.supervisor.drivers["executor:InstantExecutor"].routine
        routine._poll_interval = 60.0
        self.routine = routine
        self.port = assembly.ports[0]
        self.dirty = assembly.redesigned.dirty
        self.now = 1000.0
        monkeypatch.setattr(events, "monotonic", lambda: self.now)

    async def hear(self, *ended: tuple[TaskInstanceKey, Any], after: float = 0.0) -> int:
        """Bring back these events in a pass, so many seconds after the last; return how many it settled."""
        self.now += after
        for event, state in ended:
            self.port.events[event] = (state, None)
            self.port._outstanding.pop(event, None)
        count: int = await self.routine._take_up_events()
        return count

    def visit(self) -> list[int]:
        """Return the runs that are to be visited, as if they were."""
        taken = self.dirty.take(9, timezone.utcnow())
        self.dirty.release(taken)
        return list(taken)


@asynccontextmanager
async def heard_of(state: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Deferring, DagRun]]:
    """Give the routine, and a run of one task in *state* whose workload the executor was given here."""
    run = store(state)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        know_from_its_workload(assembly, run)
        yield Deferring(assembly, monkeypatch), run


async def test_a_good_end_is_told_of_at_once_and_looked_at_when_nothing_else_comes(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with heard_of("success", monkeypatch) as (it, run):
        assert await it.hear((key(), SUCCESS)) == 0
        assert it.visit() == [run.id]
        assert it.routine.rest(60.0) == pytest.approx(events.LOOK_AFTER)
        assert await it.hear(after=0.9 * events.LOOK_AFTER) == 0
        assert it.routine.rest(60.0) == pytest.approx(0.1 * events.LOOK_AFTER)
        assert await it.hear(after=0.2 * events.LOOK_AFTER) == 1
        assert it.visit() == []
        assert it.port.events == {}
        assert it.routine.rest(60.0) == 60.0
        assert not it.routine._brought_news


async def test_good_ends_wait_while_others_come_but_not_for_long(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [5]))
    run = create_run("dag", state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="success", try_number=1))
        ids = dict(map(tuple, session.execute(select(TaskInstance.task_id, TaskInstance.id))))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        it = Deferring(assembly, monkeypatch)
        keys = [TaskInstanceKey("dag", task_id, "run_0", 1, -1) for task_id in sorted(ids)]
        for one in keys:
            it.port.expect(one, run.id)
            it.port.accept(SimpleNamespace(key=one, ti=SimpleNamespace(id=ids[one.task_id])))
        it.port._workloads.clear()
        settled = [await it.hear((one, SUCCESS), after=0.3 * events.LOOK_AT_LATEST) for one in keys]
        assert settled == [0, 0, 0, 0, 5]


@pytest.mark.parametrize("known", [True, False])
async def test_a_bad_end_and_one_of_an_unknown_run_are_looked_at_at_once(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    run = store("failed" if known else "success")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        it = Deferring(assembly, monkeypatch)
        if known:
            know_from_its_workload(assembly, run)
        assert await it.hear((key(), FAILED if known else SUCCESS)) == 1
        assert it.visit() == [run.id]
        assert it.routine._brought_news is not known


async def test_events_that_were_put_back_are_tried_with_each_pass(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        it = Deferring(assembly, monkeypatch)
        run = store("running", job=assembly._scheduler.job.id)
        know_from_its_workload(assembly, run)
        assert await it.hear((key(), SUCCESS)) == 0
        with create_session(scoped=False) as somebody:
            somebody.execute(select(TaskInstance).with_for_update())
            assert await it.hear(after=events.LOOK_AFTER) == 0
            assert it.routine.rest(0.02) == 0.02
        assert await it.hear() == 1
    assert states() == {"failed": 1}


async def test_that_a_try_follows_by_our_own_doing_is_no_surprise(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A retry without delay is scheduled before the event of the try before is looked at."""
    async with heard_of("up_for_retry", monkeypatch) as (it, _):
        assert await it.hear((key(), SUCCESS)) == 0
        it.visit()
        next_try = {"state": "queued", "try_number": 2, "id": uuid7(), "updated_at": timezone.utcnow()}
        with create_session() as session:
            session.execute(update(TaskInstance).values(next_try))
        assert await it.hear(after=events.LOOK_AFTER) == 1
    assert states() == {"queued": 1}
    assert "try_number mismatch" not in caplog.text


async def test_what_a_pass_says_that_hears_a_good_end_and_what_one_that_looks_at_it(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has told others has progressed: a scheduler must not end for want of progress before they act."""
    run = store("success")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        it = Deferring(assembly, monkeypatch)
        beats: list[float] = []

        async def beat(spacing: float) -> Beat:
            beats.append(spacing)
            return Beat(0, 0.0)

        monkeypatch.setattr(it.port, "beat", beat)
        know_from_its_workload(assembly, run)
        it.port._outstanding.clear()
        it.port.events[key()] = (SUCCESS, None)
        heard = await it.routine.run_once()
        assert (heard.progressed, heard.wakes, heard.counts["events"]) == (True, (), 0)
        it.now += events.LOOK_AFTER
        looked = await it.routine.run_once()
        assert (looked.progressed, looked.counts["events"]) == (False, 1)
        assert beats == [pytest.approx(events.SHORTEST_POLL / 2), inf], "a look waits for no heartbeat"


async def test_an_equal_event_of_a_task_that_has_resumed_is_told_of_too(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with heard_of("success", monkeypatch) as (it, run):
        for _ in range(2):
            assert await it.hear((key(), SUCCESS)) == 0
            assert it.visit() == [run.id]
            assert await it.hear() == 0
            assert it.visit() == []
        assert await it.hear((key(), FAILED)) == 1, "a bad end does not wait"


async def test_a_killed_try_whose_earlier_one_is_not_looked_at_yet_has_its_run_visited(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two tries Airflow's code takes the last."""
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        it = Deferring(assembly, monkeypatch)
        run = store("running", try_number=2, job=assembly._scheduler.job.id)
        for one in (key(1), key(2)):
            it.port.expect(one, run.id)
            it.port.accept(SimpleNamespace(key=one, ti=SimpleNamespace(id=instance().id)))
        it.port._workloads.clear()
        assert await it.hear((key(1), SUCCESS)) == 0
        assert await it.hear((key(2), SUCCESS)) == 0
        it.visit()
        await it.hear(after=events.LOOK_AFTER)
        assert states() == {"failed": 1}
        assert it.visit() == [run.id]


async def test_a_look_that_was_cut_off_after_its_events_were_settled_is_over(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with heard_of("success", monkeypatch) as (it, _):
        assert await it.hear((key(), SUCCESS)) == 0

        async def cut_off(*_: Any, **__: Any) -> None:
            raise TimeoutError

        monkeypatch.setattr(it.routine._finished, "write", cut_off)
        with pytest.raises(TimeoutError):
            await it.hear(after=events.LOOK_AFTER)
        assert await it.hear() == 0
        assert it.routine.rest(60.0) == 60.0


async def test_events_that_wait_are_looked_at_before_their_executor_ends(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end may take as long as its tasks do."""
    async with heard_of("success", monkeypatch) as (it, _):
        assert await it.hear((key(), SUCCESS)) == 0
        left: list[int] = []

        async def end(patience: float) -> None:
            left.append(len(it.port.events))

        monkeypatch.setattr(it.port, "end", end)
        await it.assembly._end_executor(it.port, it.routine)
        assert left == [0]
