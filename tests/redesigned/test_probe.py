"""One look for all stages: who is woken, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.jobs.job import Job, JobState
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import update

from async_scheduler.errors import SchedulerFenced
from async_scheduler.routines.redesigned.peers import Peers
from async_scheduler.routines.redesigned.probe import BESIDE_OTHERS, FOLLOWERS, Probe
from async_scheduler.routines.redesigned.stages import NOTHING_RUNS_EVERY
from async_scheduler.settings import Settings
from async_scheduler.store.waiting import Waiting
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from async_scheduler.routines.redesigned.stages import RedesignedStages
    from tests.support.postgres import Database

FOR_EVER = 1e9


def probe(assembly: Assembly, patience: float) -> Probe:
    """Return a probe of that patience on the sessions of *assembly*."""
    return Probe(assembly._sessions, assembly.fence, patience)


def test_every_kind_of_work_has_a_routine() -> None:
    assert {*FOLLOWERS, "queued_last", "schedulers", "running_runs", "job_state"} == set(Waiting._fields)


async def test_nobody_is_woken_where_nothing_waits(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert set(FOLLOWERS.values()) < set(assembly.supervisor.drivers)
        outcome = await probe(assembly, 0).run_once()
    assert (outcome.progressed, outcome.wakes) == (False, ())


async def test_a_queued_run_wakes_its_stage_once_and_another_one_again(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        impatient, patient = probe(assembly, 0), probe(assembly, FOR_EVER)
        create_run("dag", 0)
        assert (await patient.run_once()).wakes == ("start",)
        assert (await patient.run_once()).wakes == ()
        create_run("dag", 1)
        assert (await patient.run_once()).wakes == ("start",)
        # What cannot be done yet is tried again from time to time.
        assert [(await impatient.run_once()).wakes for _ in range(2)] == [("start",)] * 2


async def test_that_a_run_was_started_wakes_nobody_but_one_that_came_for_it_does(
    airflow_db: Database,
) -> None:
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        patient, new = probe(assembly, FOR_EVER), []
        patient._on_new_runs = lambda: new.append(1)
        runs = [create_run("dag", number).id for number in range(3)]
        wakes = [(await patient.run_once()).wakes]
        for number, replaced in enumerate((False, True, False)):
            set_run(runs[number], DagRunState.RUNNING)
            if replaced:
                create_run("dag", 3)
            wakes.append((await patient.run_once()).wakes)
    assert wakes == [("start",), (), ("start",), ()]
    assert new == [1]


def set_run(run: int, state: DagRunState) -> None:
    """Give a run a state, by whomever."""
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == run).values(state=state))


async def test_runs_of_paused_dags_wake_nobody_until_their_dag_is_unpaused(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        patient = probe(assembly, FOR_EVER)
        create_run("dag", 0)
        pause("dag", paused=True)
        assert (await patient.run_once()).wakes == ()
        pause("dag", paused=False)
        assert (await patient.run_once()).wakes == ("start",)


async def test_scheduled_task_instances_wake_the_critical_section(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    run = create_run("dag", 0, state=DagRunState.RUNNING)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        for _ in range(2):  # the first pass reads the dag
            new.dirty.mark([run.id])
            await new.schedule.run_once()
        assert (await probe(assembly, FOR_EVER).run_once()).wakes == ("enqueue",)


async def test_queued_runs_are_known_to_wait_until_a_look_finds_none(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        patient = probe(assembly, FOR_EVER)
        seen = [patient.saw_queued_runs]
        await patient.run_once()
        seen.append(patient.saw_queued_runs)
        create_run("dag", 0)
        await patient.run_once()
        assert [*seen, patient.saw_queued_runs] == [True, False, True]


async def test_start_finds_out_that_no_queued_run_is_left(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1], max_active_runs=1))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        create_run("dag", 0)
        await new.probe.run_once()
        seen = []
        for _ in range(2):  # starts it, then finds none
            await new.start.run_once()
            seen.append(new.probe.saw_queued_runs)
        create_run("dag", 1)
        await new.probe.run_once()
        await new.start.run_once()  # it has to wait for the other one
        assert [*seen, new.probe.saw_queued_runs] == [True, False, True]


async def test_the_end_of_a_run_wakes_start_where_a_queued_one_was_seen(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        assert [await wakes_of_an_end(new, 0), await wakes_of_an_end(new, 1)] == [("start",)] * 2
        await new.probe.run_once()
        assert await wakes_of_an_end(new, 2) == ()
        create_run("dag", 3)
        await new.probe.run_once()
        assert await wakes_of_an_end(new, 4) == ("start",)


async def test_beside_other_schedulers_the_next_look_is_sooner(airflow_db: Database) -> None:
    """While no queued run waits; beside one that starts whatever it finds always."""
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        peers = Peers(1)
        usual, sooner = (
            Probe(assembly._sessions, assembly.fence, 0, peers, interval=every) for every in (0.25, 0.01)
        )
        assert (await usual.run_once()).due_in is None
        peers.see({1, 2}, {1, 2})
        assert (await usual.run_once()).due_in == BESIDE_OTHERS
        assert (await sooner.run_once()).due_in == 0.01, "the setting is the most"
        create_run("dag")
        assert (await usual.run_once()).due_in is None
        peers.see({1, 2, 3}, {1, 2})
        assert (await usual.run_once()).due_in == BESIDE_OTHERS


async def test_the_sweep_rests_while_nothing_runs_until_a_look_finds_a_run(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        assert (await new.sweep.run_once()).due_in == NOTHING_RUNS_EVERY
        assert (await new.probe.run_once()).wakes == ()
        create_run("dag", 0, state=DagRunState.RUNNING)
        pause("dag", paused=True)
        assert (await new.probe.run_once()).wakes == (), "nobody examines it"
        pause("dag", paused=False)
        assert [(await new.probe.run_once()).wakes for _ in range(2)] == [("sweep",)] * 2
        assert (await new.sweep.run_once()).due_in is None
        assert (await new.probe.run_once()).wakes == ()


async def test_the_sweep_does_not_rest_where_there_is_no_probe(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=Settings(mode="sequential")) as assembly:
        sweep = stages(assembly).sweep
        assert ((await sweep.run_once()).due_in, sweep.rests) == (None, False)


async def test_a_look_serves_the_fence(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        fence, new = assembly.fence, stages(assembly)
        fence._confirmed -= 100
        seen = [fence.fresh]
        await new.probe.run_once()
        assert [*seen, fence.fresh] == [False, True]
        with create_session() as session:
            session.execute(update(Job).values(state=JobState.FAILED))
        with pytest.raises(SchedulerFenced):
            await new.probe.run_once()
        assert fence.lost


async def wakes_of_an_end(new: RedesignedStages, number: int) -> tuple[str, ...] | None:
    """Let a running run without unfinished task instances be visited; return who is woken by its end."""
    run = create_run("dag", number, state=DagRunState.RUNNING)
    with create_session() as session:
        of_run = TaskInstance.run_id == run.run_id
        session.execute(update(TaskInstance).where(of_run).values(state="success"))
    for _ in range(2):  # the first pass may read the dag
        new.dirty.mark([run.id])
        outcome = await new.schedule.run_once()
        if outcome.counts.get("ended"):
            return outcome.wakes
    raise AssertionError("the run has not ended")


def pause(dag_id: str, *, paused: bool) -> None:
    """Pause or unpause a dag as a user would."""
    with create_session(scoped=False) as session:
        session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(is_paused=paused))
