"""The executor bridge: hand-over after the commit, events put back, a hung executor beside a working one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from airflow.executors.executor_utils import ExecutorName
from airflow.listeners import hookimpl
from airflow.listeners.listener import get_listener_manager
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select, text, update

from async_scheduler.bridge.executor_port import ExecutorPort
from async_scheduler.bridge.threads import PurposeThread
from async_scheduler.errors import ExecutorUnresponsive
from async_scheduler.settings import Settings
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from airflow.executors.base_executor import BaseExecutor

    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database


def routine(assembly: Assembly, name: str) -> Any:
    """Return the routine called *name*."""
    return assembly.supervisor.drivers[name].routine


async def _scheduled(assembly: Assembly) -> None:
    """Bring the stored run so far that its tasks are scheduled."""
    await routine(assembly, "start").run_once()
    await routine(assembly, "schedule").run_once()


def _states() -> set[str | None]:
    with create_session() as session:
        return set(session.scalars(select(TaskInstance.state)))


async def test_workloads_reach_the_executor_only_after_the_commit(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [3]))
    create_run("dag")
    executor = InstantExecutor()
    async with assembled(executor) as assembly:
        await _scheduled(assembly)
        port = assembly.ports[0]
        waiting_at_commit: list[int] = []
        session_of = routine(assembly, "enqueue")._sessions

        class Watched:
            """Looks at the port at the moment of the commit."""

            def borrow(self) -> Any:
                return _watch_commit(session_of.borrow(), lambda: waiting_at_commit.append(port.waiting))

        routine(assembly, "enqueue")._sessions = Watched()
        outcome = await routine(assembly, "enqueue").run_once()
        assert outcome.counts == {"queued": 3}
        assert waiting_at_commit == [0]
        assert port.waiting == 3
        assert executor.queued_tasks == {}
        assert assembly.views[0].slots_available == executor.slots_available - 3
        await port.beat()
        assert (port.waiting, len(executor.runs), executor.unqueued) == (0, 3, [])


class _watch_commit:
    """Wraps a lent session so that *look* runs just before its commit returns."""

    def __init__(self, lent: Any, look: Any) -> None:
        self._lent, self._look = lent, look

    async def __aenter__(self) -> Any:
        session = await self._lent.__aenter__()
        commit = session.commit

        async def watched() -> None:
            await commit()
            self._look()

        session.commit = watched
        return session

    async def __aexit__(self, *error: Any) -> Any:
        return await self._lent.__aexit__(*error)


async def test_failed_commit_hands_nothing_over(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [3]))
    create_run("dag")
    executor = InstantExecutor()
    async with assembled(executor) as assembly:
        await _scheduled(assembly)
        with create_session() as session:
            # Fails at the commit, after every statement of the critical section has succeeded.
            session.execute(text("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                                 " RAISE EXCEPTION 'at commit'; END $$"))  # fmt: skip
            session.execute(
                text(
                    "CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON task_instance DEFERRABLE INITIALLY"
                    " DEFERRED FOR EACH ROW WHEN (NEW.state = 'queued') EXECUTE FUNCTION fail()"
                )
            )
        with pytest.raises(Exception, match="at commit"):
            await routine(assembly, "enqueue").run_once()
        assert assembly.ports[0].waiting == 0
    assert _states() == {TaskInstanceState.SCHEDULED}


async def _with_events(assembly: Assembly) -> None:
    """Run the tasks and bring their events back, without processing them."""
    await _scheduled(assembly)
    await routine(assembly, "enqueue").run_once()
    await assembly.ports[0].beat()
    await assembly.ports[0].beat()


async def test_events_of_locked_rows_are_kept_for_the_next_pass(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2]))
    create_run("dag")
    async with assembled(InstantExecutor()) as assembly:
        await _with_events(assembly)
        port, executor = assembly.ports[0], routine(assembly, "executor:InstantExecutor")
        assert len(port.events) == 2
        with create_session(scoped=False) as other:
            locked = TaskInstance.task_id == "l0_t0"
            other.execute(select(TaskInstance.id).where(locked).with_for_update())
            assert await executor.process_events() == 1
            assert [key.task_id for key in port.events] == ["l0_t0"]
        assert await executor.process_events() == 1
        assert port.events == {}


async def test_events_of_deleted_rows_and_unknown_states_do_not_stay(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag")
    async with assembled(InstantExecutor()) as assembly:
        port = assembly.ports[0]
        port.events = {
            TaskInstanceKey("dag", "gone", "run_0", 1, -1): (TaskInstanceState.SUCCESS, None),
            TaskInstanceKey("dag", "l0_t0", "run_0", 1, -1): (TaskInstanceState.DEFERRED, None),
        }
        await routine(assembly, "executor:InstantExecutor").process_events()
        assert port.events == {}


async def test_events_stay_when_their_transaction_fails(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag")
    async with assembled(InstantExecutor()) as assembly:
        await _with_events(assembly)
        with create_session() as session:
            session.execute(text("ALTER TABLE task_instance RENAME TO hidden"))
        with pytest.raises(Exception, match="task_instance"):
            await routine(assembly, "executor:InstantExecutor").process_events()
        assert len(assembly.ports[0].events) == 1


async def test_task_that_ends_without_a_state_is_failed(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag")
    async with assembled(InstantExecutor()) as assembly:
        await _with_events(assembly)
        with create_session() as session:
            session.execute(update(TaskInstance).values(state=TaskInstanceState.RUNNING))
        assert await routine(assembly, "executor:InstantExecutor").process_events() == 1
    assert _states() == {TaskInstanceState.FAILED}


class HungExecutor(InstantExecutor):
    """Its heartbeat does not return until the test lets it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hanging = threading.Event()
        self.release = threading.Event()

    def heartbeat(self) -> None:
        """Hang."""
        self.hanging.set()
        self.release.wait(300)


def named(executor: BaseExecutor, alias: str) -> Any:
    """Give *executor* the name by which tasks choose it."""
    executor.name = ExecutorName(module_path=f"tests.{alias}", alias=alias)
    return executor


class EndedRuns:
    """Tells a test on the loop which runs have ended."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.one_more = asyncio.Event()
        self.dag_ids: list[str] = []

    @hookimpl  # type: ignore[untyped-decorator]
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """Note the run."""
        self.dag_ids.append(dag_run.dag_id)
        self.loop.call_soon_threadsafe(self.one_more.set)


@pytest.fixture
async def ended_runs() -> Any:
    manager, ended = get_listener_manager(), EndedRuns()
    manager.add_listener(ended)
    yield ended
    manager.pm.unregister(ended)


@pytest.fixture
def hung() -> Iterator[HungExecutor]:
    executor = named(HungExecutor(), "hung")
    yield executor
    executor.release.set()


async def test_hung_executor_delays_only_itself(
    airflow_db: Database, ended_runs: EndedRuns, hung: HungExecutor
) -> None:
    write_dags(layered_dag("works", [2, 2]), layered_dag("hangs", [1], default_args={"executor": "hung"}))
    create_run("works")
    create_run("hangs")
    settings = Settings(event_loop="asyncio", executor_poll_interval=0.02, shutdown_grace=0.05)
    async with assembled(named(InstantExecutor(), "works"), hung, settings=settings) as assembly:
        async with asyncio.TaskGroup() as group:
            group.create_task(assembly.supervisor.run_concurrently(), name="scheduler")
            await ended_runs.one_more.wait()
            assembly.supervisor.stop()
        assert hung.hanging.is_set()
        assert ended_runs.dag_ids == ["works"]
        # Ending does not wait for it for ever either.
        await assembly.end_executors()
        assert [port.executor.ended for port in assembly.ports] == [True, False]
    with create_session() as session:
        states = dict(session.execute(select(DagRun.dag_id, DagRun.state)).all())
    assert states == {"works": DagRunState.SUCCESS, "hangs": DagRunState.RUNNING}


async def test_hung_executor_is_waited_for_without_end(airflow_db: Database, hung: HungExecutor) -> None:
    """Nor do the routine's own limits end the scheduler: neither time-out nor giving up counts here."""
    settings = Settings(
        event_loop="asyncio", routine_timeout=1.0, retry_give_up_after=0.0, shutdown_grace=0.05
    )
    async with assembled(hung, settings=settings) as assembly:
        driver = assembly.supervisor.drivers["executor:hung"]
        assert driver._policy.timeout is None
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(driver.run_pass(), name="beat")
            await asyncio.to_thread(hung.hanging.wait)
            hung.release.set()
            await beating


async def test_events_of_a_beat_that_nobody_waits_for_any_more_are_kept(
    airflow_db: Database, hung: HungExecutor
) -> None:
    async with assembled(hung) as assembly:
        port = assembly.ports[0]
        key = TaskInstanceKey("dag", "task", "run_0", 1, -1)
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(port.beat(), name="beat")
            await asyncio.to_thread(hung.hanging.wait)
            hung.event_buffer[key] = (TaskInstanceState.SUCCESS, None)
            beating.cancel()
        hung.release.set()
        await port.beat()
        assert port.events == {key: (TaskInstanceState.SUCCESS, None)}


async def test_workload_counts_as_held_until_its_last_event_arrives(airflow_db: Database) -> None:
    """LocalExecutor forgets a task at hand-over; a stale event must not fail the present stay."""
    write_dags(layered_dag("dag", [1]))
    create_run("dag")

    class Forgetful(InstantExecutor):
        def _run(self, key: Any, ti_id: Any) -> None:
            self.running.discard(key)

    executor = Forgetful()
    async with assembled(executor) as assembly:
        await _scheduled(assembly)
        await routine(assembly, "enqueue").run_once()
        port = assembly.ports[0]
        await port.beat()
        (key,) = executor.runs
        port.events[key] = (TaskInstanceState.SUCCESS, None)  # of an earlier stay, put back meanwhile
        await routine(assembly, "executor:Forgetful").process_events()
        assert _states() == {TaskInstanceState.QUEUED}
        executor.event_buffer[key] = (TaskInstanceState.SUCCESS, None)
        await port.beat()
        await routine(assembly, "executor:Forgetful").process_events()
    assert _states() == {TaskInstanceState.FAILED}, "now it has ended, and wrote no state"


async def test_cleared_task_gets_its_retries_back_as_in_the_stock_scheduler(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1], default_args={"retries": 2}))
    create_run("dag")
    async with assembled(InstantExecutor()) as assembly:
        await _with_events(assembly)
        with create_session() as session:
            session.execute(update(TaskInstance).values(state=TaskInstanceState.RESTARTING, max_tries=2))
        await routine(assembly, "executor:InstantExecutor").process_events()
    with create_session() as session:
        found = session.scalars(select(TaskInstance)).one()
        assert (found.state, found.try_number, found.max_tries) == (None, 1, 3)


async def test_event_logs_that_cannot_be_saved_end_nothing(airflow_db: Database) -> None:
    executor = InstantExecutor()
    key = TaskInstanceKey("dag", "task", "run_0", 1, -1)
    async with assembled(executor) as assembly:
        executor.log_task_event(event="event", extra="not a text for PostgreSQL: \x00", ti_key=key)
        await routine(assembly, "executor:InstantExecutor").run_once()
        assert not executor._task_event_logs
        executor.log_task_event(event="event", extra="fine", ti_key=key)
        await routine(assembly, "executor:InstantExecutor").run_once()
    with create_session() as session:
        assert session.scalar(text("SELECT count(*) FROM log WHERE event = 'event'")) == 1


async def test_calls_of_one_executor_never_overlap(airflow_db: Database) -> None:
    inside = 0
    overlapped = False

    class Nosy(InstantExecutor):
        def _enter(self, method: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside, overlapped
            inside += 1
            overlapped = overlapped or inside > 1
            try:
                return method(*args, **kwargs)
            finally:
                inside -= 1

        def heartbeat(self) -> None:
            self._enter(super().heartbeat)

        def queue_workload(self, *args: Any, **kwargs: Any) -> None:
            self._enter(super().queue_workload, *args, **kwargs)

        def get_event_buffer(self, *args: Any, **kwargs: Any) -> Any:
            return self._enter(super().get_event_buffer, *args, **kwargs)

    write_dags(layered_dag("dag", [5, 5]))
    create_run("dag")
    async with assembled(Nosy()) as assembly:
        await _scheduled(assembly)
        await routine(assembly, "enqueue").run_once()
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(assembly.ports[0].beat(), name=f"beat {number}")
    assert not overlapped


async def test_a_workload_forgotten_while_others_are_handed_over_takes_none_of_them_along(
    airflow_db: Database,
) -> None:
    """A stuck task is revoked while the executor is given new ones."""
    write_dags(layered_dag("dag", [4]))
    create_run("dag")
    later: list[Any] = []

    class Meddling(InstantExecutor):
        def queue_workload(self, workload: Any, *args: Any, **kwargs: Any) -> None:
            super().queue_workload(workload, *args, **kwargs)
            if later:
                port.forget(next(iter(port._workloads.values())).key)
                port.accept(later.pop())

    async with assembled(Meddling()) as assembly:
        await _scheduled(assembly)
        await routine(assembly, "enqueue").run_once()
        port = assembly.ports[0]
        later.append(port._workloads.popitem()[1])
        await port.beat()
        assert port.waiting == 1
        await port.beat()
        executor: Any = port.executor
        assert (port.waiting, len(executor.runs)) == (0, 4)


async def test_a_revoked_workload_that_was_not_handed_over_never_is(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag")

    class Revoking(InstantExecutor):
        def revoke_task(self, *, ti: Any) -> None:
            assert port.waiting

    executor = Revoking()
    async with assembled(executor, settings=FAST) as assembly:
        await _scheduled(assembly)
        await routine(assembly, "enqueue").run_once()
        port = assembly.ports[0]
        with create_session() as session:
            ti = session.scalars(select(TaskInstance)).one()
        await asyncio.to_thread(assembly.views[0].revoke_task, ti=ti)
        await port.beat()
        assert not executor.runs
        assert not port.has_unfinished_work


def test_a_thread_of_one_purpose_is_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two callers at once: the loop's first beat, and the adoption of orphans."""
    made: list[Any] = []
    second = threading.Event()

    class Slow(threading.Thread):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)
            if len(made) > 1:
                second.set()
            second.wait(0.5)

    purpose = PurposeThread("one")
    callers = [threading.Thread(target=purpose.submit, args=(lambda: None,)) for _ in range(2)]
    monkeypatch.setattr("async_scheduler.bridge.threads.threading.Thread", Slow)
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    purpose.close()
    assert len(made) == 1


def test_a_thread_that_cannot_begin_says_so_to_its_caller() -> None:
    """Else an executor that cannot be made ready would be waited for without end."""
    purpose = PurposeThread("one", begin=lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        purpose.submit(lambda: None).result(120)
    purpose.close()


async def test_executor_that_does_not_answer_in_time_is_named(hung: HungExecutor) -> None:
    port = ExecutorPort(hung, wake=lambda: None)
    with pytest.raises(ExecutorUnresponsive, match="Executor hung did not answer revoke_task"):
        await asyncio.to_thread(port.call_and_wait, lambda: hung.release.wait(300), "revoke_task", 0.01)


async def test_errors_of_the_executor_reach_the_caller(airflow_db: Database) -> None:
    executor = InstantExecutor()
    async with assembled(executor, settings=FAST) as assembly:
        with pytest.raises(NotImplementedError):
            await asyncio.to_thread(assembly.views[0].revoke_task, ti=None)
