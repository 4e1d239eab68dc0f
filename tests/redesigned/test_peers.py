"""Several schedulers: what is left to another one, for how long, and what happens when it does not come."""

from __future__ import annotations

from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING

import pytest
from airflow._shared.timezones import timezone
from airflow.jobs.job import Job, JobState
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select, update

from async_scheduler.routines.redesigned.peers import (
    LEFT_FOR,
    NO_STARTS_FOR,
    NOT_SPARED_FOR,
    STARTS_LEFT_FOR,
    Patience,
    Peers,
)
from async_scheduler.routines.redesigned.sweep import PEERS_EVERY
from tests.redesigned.test_races import set_state, stages
from tests.redesigned.test_stages import REDESIGNED, run_states, states, take_turns
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from async_scheduler.routines.redesigned.stages import RedesignedStages
    from tests.support.postgres import Database


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_pause(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sections follow each other at once, except where that is what is tested."""
    if request.node.name != "test_between_two_sections_others_get_a_turn":
        monkeypatch.setattr("async_scheduler.routines.redesigned.peers.TURN", 0.0)


def other_scheduler(beat_ago: float = 0.0) -> int:
    """Return the job of another scheduler, alive *beat_ago* seconds ago; nothing runs."""
    with create_session() as session:
        job = Job(job_type="SchedulerJob", state=JobState.RUNNING)
        job.latest_heartbeat = timezone.utcnow() - timedelta(seconds=beat_ago)
        session.add(job)
        session.flush()
        return int(job.id)


def give_runs_to(job: int | None) -> None:
    """Let all runs be examined last by *job*, a moment ago."""
    with create_session() as session:
        values = {"scheduled_by_job_id": job, "last_scheduling_decision": timezone.utcnow()}
        session.execute(update(DagRun).values(values))


def owners() -> list[int | None]:
    """Return which jobs examined the runs last."""
    with create_session() as session:
        return list(session.scalars(select(DagRun.scheduled_by_job_id).order_by(DagRun.id)))


def on(clock: Clock, assembly: Assembly) -> RedesignedStages:
    """Return the stages, their patience measured by *clock*."""
    new = stages(assembly)
    new.peers._clock = new.enqueue._courtesy._patience._clock = new.start._patience._clock = clock
    return new


def test_what_is_left_is_remembered_from_the_first_time_on(clock: Clock) -> None:
    patience = Patience(1.0, clock)
    assert patience.ends_in() is None
    assert patience.late(["a"]) == set()
    patience.leave(["a"])
    clock.now += 0.75
    assert patience.late(["a", "b"]) == set()
    patience.leave(["a", "b"])
    assert patience.ends_in() == 0.25
    clock.now += 0.25
    assert patience.late(["a", "b"]) == {"a"}
    patience.leave(["b"])
    assert patience.ends_in() == 0.75
    patience.leave([])
    assert patience.ends_in() is None
    clock.now += 1
    assert patience.late(["b"]) == set(), "it was not left all the time"


def test_a_scheduler_that_was_late_is_not_spared_for_a_while(clock: Clock) -> None:
    peers = Peers(1, clock)
    peers.see({1, 2, 3})
    assert [peers.spares(owner) for owner in (None, 1, 2, 3, 4)] == [False, False, True, True, False]
    peers.note_late([2])
    assert [peers.spares(owner) for owner in (2, 3)] == [False, True]
    assert peers.has(2)
    clock.now += NOT_SPARED_FOR
    assert peers.spares(2)


def test_that_a_scheduler_is_gone_is_told_once() -> None:
    peers = Peers(1)
    assert not peers.see({1, 2})
    assert not peers.see({1, 2, 3})
    assert peers.see({1, 3})
    assert not peers.see({1, 3})


@pytest.mark.parametrize("schedulers", [1, 2, 3])
def test_each_run_is_dealt_to_exactly_one_of_the_schedulers(schedulers: int) -> None:
    jobs = set(range(7, 7 + schedulers))
    everyone = [Peers(job) for job in jobs]
    for peers in everyone:
        peers.see(jobs)
    for run in range(20):
        assert [peers.dealt_to(run) for peers in everyone].count(None) == 1


async def test_instances_of_anothers_run_are_left_to_it_until_it_is_late(
    airflow_db: Database, clock: Clock
) -> None:
    """So that the events of a run come back to one scheduler. A scheduler that has died is late once."""
    write_dags(layered_dag("dag", [2, 1]))
    create_run("dag", state=DagRunState.RUNNING)
    other = other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        set_state("l0_t0", "scheduled")
        give_runs_to(other)
        outcome = await new.enqueue.run_once()
        assert outcome.counts == {"queued": 0, "spared": 1}
        assert outcome.due_in == pytest.approx(LEFT_FOR)
        assert not new.enqueue.backlog, "no event of ours makes room for what is another's"
        clock.now += LEFT_FOR
        assert (await new.enqueue.run_once()).counts == {"queued": 1}
        set_state("l0_t1", "scheduled")
        assert (await new.enqueue.run_once()).counts == {"queued": 1}, "it is not waited for again"


async def test_between_two_sections_others_get_a_turn(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.enqueue.run_once()
        assert new.enqueue._courtesy._not_before == 0.0, "there are no others"
        other_scheduler()
        await new.sweep.run_once()
        began = perf_counter()
        await new.enqueue.run_once()
        assert new.enqueue._courtesy._not_before > began
        new.enqueue._courtesy._not_before = perf_counter() + 1000
        waiting = await new.enqueue.run_once()
        assert waiting.counts == {}
        assert waiting.due_in


@pytest.mark.parametrize("beat_ago", [0.0, 3600.0], ids=["ended", "silent"])
async def test_nothing_is_left_to_a_scheduler_that_is_not_alive(
    airflow_db: Database, beat_ago: float
) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag", state=DagRunState.RUNNING)
    set_state("l0_t0", "scheduled")
    other = other_scheduler(beat_ago)
    give_runs_to(other)
    if not beat_ago:
        with create_session() as session:
            session.execute(update(Job).values(state=JobState.SUCCESS))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        assert (await new.enqueue.run_once()).counts == {"queued": 1}


async def test_where_a_pool_has_too_little_for_all_the_order_decides(airflow_db: Database) -> None:
    """A task instance must not get a slot before one of a higher priority because of whose run it is."""
    write_dags(layered_dag("first", [1]), layered_dag("second", [1]))
    for number, dag_id in enumerate(("first", "second")):
        create_run(dag_id, number, state=DagRunState.RUNNING)
    set_state("l0_t0", "scheduled")
    with create_session() as session:
        session.execute(update(Pool).values(slots=1))
    other = other_scheduler()
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.dag_id == "first").values(scheduled_by_job_id=other))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        assert (await new.enqueue.run_once()).counts == {"queued": 1}
    with create_session() as session:
        queued = session.scalars(select(TaskInstance.dag_id).where(TaskInstance.state == "queued"))
        assert queued.all() == ["first"]


async def test_a_run_stays_with_its_scheduler_until_another_one_changes_it(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1, 1]))
    run = create_run("dag", state=DagRunState.RUNNING)
    other = other_scheduler()
    give_runs_to(other)
    set_state("l0_t0", "running")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        for _ in range(2):  # the first one reads the dag
            new.dirty.mark([run.id])
            await new.schedule.run_once()
        assert owners() == [other]
        set_state("l0_t0", "success")
        new.dirty.mark([run.id])
        assert (await new.schedule.run_once()).counts["scheduled"] == 1
        assert owners() == [assembly._scheduler.job.id]


async def test_a_change_in_anothers_run_is_looked_at_only_if_that_one_does_not(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2]))
    run = create_run("dag", state=DagRunState.RUNNING)
    other = other_scheduler()
    give_runs_to(other)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        assert (await new.sweep.run_once()).counts["marked"] == 0
        give_runs_to(other)  # who has examined it once more
        assert (await new.sweep.run_once()).counts["marked"] == 0
        set_state("l0_t0", "success")
        assert (await new.sweep.run_once()).counts["marked"] == 0
        set_state("l0_t1", "success")  # it goes on changing, and its scheduler does not come
        assert (await new.sweep.run_once()).counts["marked"] == 1
        assert run.id in new.dirty


async def test_when_a_scheduler_is_gone_all_runs_are_looked_at(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its timers would have found, such as retries that fall due, is in nobody's memory else."""
    write_dags(layered_dag("dag", [1]))
    run = create_run("dag", state=DagRunState.RUNNING)
    other = other_scheduler()
    give_runs_to(other)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        for _ in range(2):
            give_runs_to(other)
            await new.sweep.run_once()
        assert new.peers.others == {other}
        with create_session() as session:
            session.execute(update(Job).where(Job.id == other).values(state=JobState.FAILED))
        new.sweep._peers_due -= PEERS_EVERY
        await new.sweep.run_once()
        assert run.id in new.dirty


async def test_new_runs_are_shared_and_what_is_not_fetched_is_started(
    airflow_db: Database, clock: Clock
) -> None:
    write_dags(*(layered_dag(f"dag{number}", [1]) for number in range(2)))
    for number in range(8):
        create_run("dag0", number)
        create_run("dag1", number)
    other = other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        outcome = await new.start.run_once()
        assert outcome.counts == {"started": 8}
        assert outcome.due_in == pytest.approx(STARTS_LEFT_FOR)
        assert (await new.start.run_once()).counts == {"started": 0}
        clock.now += 2 * STARTS_LEFT_FOR
        assert (await new.start.run_once()).counts == {"started": 8}
        assert {new.peers.dealt_to(run) for run in range(8)} == {None}, "it gets no more for a while"
        clock.now += NO_STARTS_FOR
        assert {new.peers.dealt_to(run) for run in range(8)} == {None, other}


async def test_the_run_after_one_that_has_ended_here_is_started_at_once(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would tell the scheduler it is dealt to."""
    write_dags(layered_dag("chain", [1], max_active_runs=1))
    first = create_run("chain", state=DagRunState.RUNNING)
    set_state("l0_t0", "success")
    for number in range(1, 3):
        create_run("chain", number)
    other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        for _ in range(2):  # the first one reads the dag
            new.dirty.mark([first.id])
            await new.schedule.run_once()
        monkeypatch.setattr(new.peers, "dealt_to", lambda _: 99)
        assert (await new.start.run_once()).counts == {"started": 1}
    assert run_states() == ["success", "running", "queued"]


async def test_the_runs_of_a_scheduler_that_died_are_taken_to_their_end(airflow_db: Database) -> None:
    """It died so lately that it counts as alive: nothing tells the other one but that it does not come."""
    write_dags(layered_dag("dag", [2, 3, 1]))
    for number in range(3):
        create_run("dag", number, state=DagRunState.RUNNING)
    other = other_scheduler()
    give_runs_to(other)
    clock = Clock()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        set_state("l0_t0", "scheduled")
        await take_turns(assembly, 2)
        assert new.peers.others == {other}
        clock.now += LEFT_FOR
        await take_turns(assembly)
    assert states() == {"success": 3 * 6}
    assert run_states() == ["success"] * 3
