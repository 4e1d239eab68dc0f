"""The sweep: which changed runs are marked, and which are left to events or to other schedulers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow._shared.timezones import timezone
from airflow.jobs.job import Job, JobState
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import update

from async_scheduler.routines.redesigned.sweep import LEFT_FOR_LOOKS, OTHERS_EVERY, PEERS_EVERY
from tests.redesigned.test_peers import give_runs_to, other_scheduler
from tests.redesigned.test_races import set_state, stages
from tests.redesigned.test_stages import REDESIGNED
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.routines.redesigned.stages import RedesignedStages
    from tests.support.postgres import Database

GONE = 4711
"""The job of a scheduler that is no more."""


async def test_a_run_that_another_one_may_have_just_started_is_left_to_it_once(airflow_db: Database) -> None:
    """To visit it here too would be to read all of it twice; nobody comes if that one has died."""
    write_dags(layered_dag("dag", [2]))
    run = create_run("dag", state=DagRunState.RUNNING)
    other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        marked = [(await new.sweep.run_once()).counts["marked"] for _ in range(2)]
        assert marked == [0, 1]
        assert run.id in new.dirty


async def test_so_is_one_that_was_cleared_and_has_been_started_again(airflow_db: Database) -> None:
    """To clear a run makes it one that nobody has examined, but leaves who did before."""
    write_dags(layered_dag("dag", [2]))
    create_run("dag", state=DagRunState.RUNNING)
    other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        with create_session() as session:
            session.execute(update(DagRun).values(scheduled_by_job_id=GONE, last_scheduling_decision=None))
        new = stages(assembly)
        marked = [(await new.sweep.run_once()).counts["marked"] for _ in range(2)]
    assert marked == [0, 1]


async def test_a_run_that_another_one_has_started_and_examined_stays_with_it(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2]))
    create_run("dag", state=DagRunState.RUNNING)
    other = other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        marked = []
        for _ in range(3):
            marked.append((await new.sweep.run_once()).counts["marked"])
            give_runs_to(other)  # who examines it
        assert marked == [0, 0, 0]


@pytest.mark.parametrize("stock", [True, False], ids=["beside a stock one", "alone"])
async def test_where_nobody_shares_by_these_rules_a_new_run_is_visited_at_once(
    airflow_db: Database, *, stock: bool
) -> None:
    write_dags(layered_dag("dag", [2]))
    create_run("dag", state=DagRunState.RUNNING)
    if stock:
        other_scheduler(kind=None)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert (await stages(assembly).sweep.run_once()).counts["marked"] == 1


async def test_a_run_whose_first_visit_is_under_way_is_marked_only_if_none_follows(
    airflow_db: Database,
) -> None:
    write_dags(layered_dag("dag", [2]))
    run = create_run("dag", state=DagRunState.RUNNING)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        new.dirty.mark([run.id])
        taken = new.dirty.take(1, timezone.utcnow())
        assert (await new.sweep.run_once()).counts["marked"] == 0
        new.dirty.release(taken)  # it came to nothing
        assert (await new.sweep.run_once()).counts["marked"] == 1


def visit_marked(new: RedesignedStages) -> None:
    """Take all marked runs and do nothing with them."""
    new.dirty.release(new.dirty.take(100, timezone.utcnow()))


def examine(dag_id: str) -> None:
    """Let the run of this dag have been examined now by whose it is."""
    with create_session() as session:
        examined = update(DagRun).where(DagRun.dag_id == dag_id)
        session.execute(examined.values(last_scheduling_decision=timezone.utcnow()))


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


async def test_a_scheduler_that_is_at_work_has_longer(airflow_db: Database) -> None:
    """It is behind, but it comes: to take its runs would be to visit them twice."""
    write_dags(layered_dag("busy", [1]), layered_dag("waits", [2]))
    create_run("busy", 0, state=DagRunState.RUNNING)
    waits = create_run("waits", 1, state=DagRunState.RUNNING)
    other = other_scheduler()
    give_runs_to(other)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)

        async def marked_by_next_look() -> int:
            """Sweep until its runs have been looked at; return how many were marked."""
            marked = 0
            for _ in range(OTHERS_EVERY):
                examine("busy")
                marked += (await new.sweep.run_once()).counts["marked"]
            return marked

        await new.sweep.run_once()
        give_runs_to(other)
        await marked_by_next_look()
        set_state("l0_t1", "success")
        marked = [await marked_by_next_look() for _ in range(LEFT_FOR_LOOKS + 1)]
        assert marked == [*[0] * LEFT_FOR_LOOKS, 1]
        assert waits.id in new.dirty


async def test_most_sweeps_look_at_no_runs_of_a_scheduler_that_is_at_work(airflow_db: Database) -> None:
    write_dags(layered_dag("mine", [1]), layered_dag("theirs", [1]))
    mine, theirs = (
        create_run(dag_id, number, state=DagRunState.RUNNING)
        for number, dag_id in enumerate(("mine", "theirs"))
    )
    other = other_scheduler()
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == theirs.id).values(scheduled_by_job_id=other))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)

        async def sweep(what: str, times: int = OTHERS_EVERY) -> list[int]:
            """Let the other one work and sweep, so many times; return what was counted."""
            counted = []
            for _ in range(times):
                examine("theirs")
                counted.append((await new.sweep.run_once()).counts[what])
                visit_marked(new)
            return counted

        assert await sweep("running", 2 * OTHERS_EVERY) == 2 * [2, *[1] * (OTHERS_EVERY - 1)]
        new.dirty.miss([mine.id, theirs.id])  # somebody had them locked
        assert await sweep("marked") == [2, *[0] * (OTHERS_EVERY - 1)], "the first of these looks at all"
        await sweep("marked", 1)
        new.dirty.miss([mine.id, theirs.id])
        assert await sweep("marked") == [1, *[0] * (OTHERS_EVERY - 2), 1], "what was missed is kept in mind"
        assert (await new.sweep.run_once()).counts["running"] == 2, "it is no longer at work"
        new.peers.note_late([other])
        assert await sweep("running") == [2] * OTHERS_EVERY, "it is not relied on"
        with create_session() as session:
            session.execute(update(Job).where(Job.id == other).values(state=JobState.FAILED))
        new.peers.in_doubt = True
        assert await sweep("marked", 1) == [2], "it is gone"


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
