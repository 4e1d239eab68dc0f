"""Several schedulers: what is left to another one, for how long, and what happens when it does not come."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
from airflow._shared.timezones import timezone
from airflow.jobs.job import Job, JobState
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select, update

from async_scheduler.decide.admit import Candidate
from async_scheduler.routines.redesigned import section
from async_scheduler.routines.redesigned.peers import (
    BUSY,
    LEFT_FOR,
    LOOK_AT,
    LOOK_AT_LEAST_EVERY,
    LOOK_EVERY,
    NO_STARTS_FOR,
    NOT_SPARED_FOR,
    STARTS_LEFT_FOR,
    STARTS_LOOK_EVERY,
    TAKEN_LOOK_AGAIN,
    TAKEN_LOOK_LATER,
    TAKEN_REST,
    Courtesy,
    Patience,
    Peers,
)
from async_scheduler.store.candidates import Owners, lock_candidates, lock_first_with_room
from async_scheduler.store.jobs import job_kind
from async_scheduler.store.queued import Hand, claim_startable
from tests.redesigned.test_races import set_state, stages
from tests.redesigned.test_stages import REDESIGNED, run_states, states, take_turns
from tests.support.clock import Clock
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from async_scheduler.assembly import Assembly
    from async_scheduler.routines.redesigned.stages import RedesignedStages
    from tests.support.postgres import Database


REDESIGNED_KIND = job_kind("redesigned")


@pytest.fixture(autouse=True)
def no_pause(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sections follow each other at once, except where that is what is tested."""
    if request.node.name != "test_between_two_sections_others_get_a_turn":
        monkeypatch.setattr("async_scheduler.routines.redesigned.peers.TURN", 0.0)


def other_scheduler(beat_ago: float = 0.0, kind: str | None = REDESIGNED_KIND) -> int:
    """Return the job of another scheduler, alive *beat_ago* seconds ago; nothing runs."""
    with create_session() as session:
        job = Job(job_type="SchedulerJob", state=JobState.RUNNING)
        job.executor_class = kind
        job.latest_heartbeat = timezone.utcnow() - timedelta(seconds=beat_ago)
        session.add(job)
        session.flush()
        return int(job.id)


def give_runs_to(job: int | None) -> None:
    """Let all runs be examined last by *job*, a moment ago."""
    with create_session() as session:
        values = {"scheduled_by_job_id": job, "last_scheduling_decision": timezone.utcnow()}
        session.execute(update(DagRun).values(values))


def queued_dags() -> list[str]:
    """Return the dag of each queued task instance."""
    with create_session() as session:
        query = select(TaskInstance.dag_id).where(TaskInstance.state == "queued")
        return list(session.scalars(query.order_by(TaskInstance.dag_id)))


def owners() -> list[int | None]:
    """Return which jobs examined the runs last."""
    with create_session() as session:
        return list(session.scalars(select(DagRun.scheduled_by_job_id).order_by(DagRun.id)))


def on(clock: Clock, assembly: Assembly) -> RedesignedStages:
    """Return the stages, their patience measured by *clock*."""
    new = stages(assembly)
    courtesy = new.enqueue._courtesy
    for part in (new.peers, courtesy._waited, courtesy._stalled, new.start._patience):
        part.clock = clock
    return new


def record_owners(monkeypatch: pytest.MonkeyPatch) -> list[Owners]:
    """Return a list that gets whose task instances each section asks for, look by look."""
    asked: list[Owners] = []

    def recorded(lock: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            asked.append(args[-1])
            return await lock(*args)

        return call

    for lock in (lock_candidates, lock_first_with_room):
        monkeypatch.setattr(section, lock.__name__, recorded(lock))
    return asked


def left(number: int, owner: int) -> Candidate:
    """Return a candidate of *owner*'s run."""
    return Candidate(number, "dag", f"t{number}", "run", -1, "pool", 1, None, 100, False, owner)


def courtesy_of_one(clock: Clock) -> Courtesy:
    """Return what scheduler 1 leaves to the schedulers 2 and 3."""
    peers = Peers(1, clock)
    peers.see({1, 2, 3}, {1, 2, 3})
    courtesy = Courtesy(peers)
    courtesy._waited.clock = courtesy._stalled.clock = clock
    return courtesy


def taken(courtesy: Courtesy, could_run: Sequence[Candidate], busy: int = BUSY) -> list[int]:
    """Return the numbers of those that are not left to others."""
    return [one.id for one in courtesy.judge(could_run, busy)]


def test_a_scheduler_that_goes_on_keeps_its_own_however_slow(clock: Clock) -> None:
    """On a busy machine all are slow: the first to lose patience must not get everything."""
    courtesy = courtesy_of_one(clock)
    waiting = [left(number, 2) for number in range(40)]
    while len(waiting) > 3:
        assert taken(courtesy, waiting) == []
        clock.now += 0.9 * LEFT_FOR
        waiting = waiting[1:]  # one of them was queued
    assert courtesy.spared() == {2, 3}
    assert taken(courtesy, waiting) == []
    clock.now += LEFT_FOR
    assert taken(courtesy, waiting) == [37, 38, 39], "none was"
    assert courtesy.spared() == {3}


def test_new_work_is_not_taken_for_progress(clock: Clock) -> None:
    courtesy = courtesy_of_one(clock)
    assert taken(courtesy, [left(1, 2)]) == []
    clock.now += LEFT_FOR / 2
    assert taken(courtesy, [left(0, 2), left(1, 2)]) == []
    clock.now += LEFT_FOR / 2
    assert taken(courtesy, [left(0, 2), left(1, 2), left(7, 3)]) == [0, 1]
    assert courtesy.spared() == {3}


def test_a_shorter_look_is_not_taken_for_progress(clock: Clock) -> None:
    courtesy = courtesy_of_one(clock)
    waiting = [left(number, 2) for number in range(2 * LOOK_AT)]
    assert [courtesy.sees(queued, 100) for queued in (0, BUSY)] == [100, LOOK_AT]
    assert taken(courtesy, waiting) == []
    clock.now += LEFT_FOR / 2
    assert taken(courtesy, waiting[:LOOK_AT]) == []
    clock.now += LEFT_FOR / 2
    assert len(taken(courtesy, waiting)) == 2 * LOOK_AT


def test_those_who_go_on_are_looked_at_less_often(clock: Clock) -> None:
    courtesy = courtesy_of_one(clock)
    waiting = [left(number, 2) for number in range(40)]

    def look() -> float:
        """Look, and return the seconds after which a scheduler with enough to do looks again."""
        assert taken(courtesy, waiting) == []
        now, after = clock.now, 0.0
        while not courtesy.look_due(BUSY):
            clock.now, after = clock.now + 0.25, after + 0.25
        clock.now = now
        return after

    pauses = [look()]
    while len(pauses) < 4:
        del waiting[0]  # it was queued
        pauses.append(look())
    assert pauses == [LOOK_EVERY, 1.0, 2.0, LOOK_AT_LEAST_EVERY]
    clock.now += LOOK_EVERY
    assert courtesy.look_due(BUSY - 1), "one with little to do may help"
    assert not courtesy.look_due(BUSY)
    assert look() == LOOK_EVERY, "none was queued"


def test_who_has_little_to_do_helps_with_what_has_waited(clock: Clock) -> None:
    courtesy = courtesy_of_one(clock)
    assert taken(courtesy, [left(1, 2), left(2, 2), left(3, 2)], busy=0) == []
    clock.now += 0.75 * LEFT_FOR
    assert taken(courtesy, [left(2, 2), left(3, 2), left(4, 2)], busy=0) == []
    clock.now += 0.25 * LEFT_FOR
    assert taken(courtesy, [left(2, 2), left(3, 2), left(4, 2)], busy=BUSY) == []
    assert taken(courtesy, [left(2, 2), left(3, 2), left(4, 2)], busy=BUSY - 1) == [2, 3]
    assert courtesy.spared() == {2, 3}
    clock.now += 0.75 * LEFT_FOR
    assert taken(courtesy, [left(4, 2)], busy=0) == [4]


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
    peers.see({1, 2, 3}, {1, 2, 3})
    assert [peers.spares(owner) for owner in (None, 1, 2, 3, 4)] == [False, False, True, True, False]
    peers.note_late([2])
    assert [peers.spares(owner) for owner in (2, 3)] == [False, True]
    assert peers.has(2)
    clock.now += NOT_SPARED_FOR
    assert peers.spares(2)


def test_that_a_scheduler_is_gone_is_told_once() -> None:
    peers = Peers(1)
    assert not peers.see({1, 2}, {1, 2})
    assert not peers.see({1, 2, 3}, {1, 2, 3})
    assert peers.see({1, 3}, {1, 3})
    assert not peers.see({1, 3}, {1, 3})


@pytest.mark.parametrize("schedulers", [1, 2, 3])
def test_each_run_is_dealt_to_exactly_one_of_the_schedulers(schedulers: int) -> None:
    jobs = set(range(7, 7 + schedulers))
    everyone = [Peers(job) for job in jobs]
    for peers in everyone:
        peers.see(jobs, jobs)
    for run in range(20):
        assert [peers.dealt_to(run) for peers in everyone].count(None) == 1
        for peers in everyone:
            hand = peers.hand()
            assert (run % hand.of == hand.position) == (peers.dealt_to(run) is None)


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


async def test_its_own_come_first_whatever_the_order(airflow_db: Database, clock: Clock) -> None:
    """A section of a full batch is full of its own: others' come after them, if at all."""
    write_dags(layered_dag("mine", [2]), layered_dag("theirs", [2]))
    for number, dag_id in enumerate(("theirs", "mine")):
        create_run(dag_id, number, state=DagRunState.RUNNING)
    other = other_scheduler()
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="scheduled"))
        session.execute(update(DagRun).where(DagRun.dag_id == "theirs").values(scheduled_by_job_id=other))
    async with assembled(InstantExecutor(), settings=replace(REDESIGNED, queue_batch=2)) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        assert (await new.enqueue.run_once()).counts == {"queued": 2, "spared": 2}
        assert queued_dags() == ["mine", "mine"]
        clock.now += LOOK_EVERY
        assert (await new.enqueue.run_once()).counts == {"queued": 0, "spared": 2}
        clock.now += LEFT_FOR
        assert (await new.enqueue.run_once()).counts == {"queued": 2}


async def test_between_looks_others_runs_are_not_asked_for(
    airflow_db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag", state=DagRunState.RUNNING)
    set_state("l0_t0", "scheduled")
    give_runs_to(other_scheduler())
    asked = record_owners(monkeypatch)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        for wait in (0.0, LOOK_EVERY / 2, LOOK_EVERY / 2):
            clock.now += wait
            await new.enqueue.run_once()
    assert [owners.theirs for owners in asked] == [False, True, False, False, True]


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


def test_a_section_that_was_found_taken_is_left_alone_for_a_while() -> None:
    courtesy = Courtesy(Peers())
    waits = [courtesy.after_taken() for _ in range(5)]
    assert waits == pytest.approx([TAKEN_LOOK_AGAIN, 0.01, 0.02, TAKEN_LOOK_LATER, TAKEN_LOOK_LATER])
    assert courtesy.turn_in() <= 0, "how long a section takes is not known yet"
    courtesy.after_section(0.001)
    assert courtesy.after_taken() == TAKEN_LOOK_AGAIN
    courtesy.after_section(10.0)
    assert courtesy.turn_in() <= 0, "there are no others"
    assert courtesy.after_taken() == LOOK_EVERY
    assert 0 < courtesy.turn_in() <= 10.0 * TAKEN_REST


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


async def test_nothing_is_dealt_to_a_stock_scheduler(airflow_db: Database) -> None:
    """It examines every run in every loop and starts whatever is queued: it helps itself."""
    stock, other = other_scheduler(kind=None), other_scheduler(kind=job_kind("upstream"))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        assert new.peers.others == {stock, other}
        assert {new.peers.dealt_to(run) for run in range(4)} == {None}


@pytest.mark.parametrize("algorithm", ["redesigned", "upstream"])
def test_a_job_tells_what_kind_of_scheduler_it_is_of(
    airflow_db: Database, algorithm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after heartbeats, which write what the job's object holds."""
    monkeypatch.setattr("airflow.jobs.job.Job.heartrate", 0.01)
    runner = run_until_idle([InstantExecutor()], replace(REDESIGNED, algorithm=algorithm))
    with create_session() as session:
        assert session.scalars(select(Job.executor_class)).all() == [f"async_scheduler:{algorithm}"]
    assert runner.job.latest_heartbeat > runner.job.start_date


async def test_a_scheduler_that_comes_is_noticed_by_the_next_probe(airflow_db: Database) -> None:
    """Else whoever was first would start everything there is."""
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        assert (await new.probe.run_once()).wakes == ()
        other = other_scheduler()
        await new.sweep.run_once()
        assert new.peers.others == set(), "it asks every few seconds only"
        assert (await new.probe.run_once()).wakes == ("sweep",)
        await new.sweep.run_once()
        assert new.peers.others == {other}
        assert (await new.probe.run_once()).wakes == ()


async def test_that_a_scheduler_begins_to_share_is_noticed_by_the_next_probe(airflow_db: Database) -> None:
    """Its job is there, and alive, while its executors still start: it does not say yet how it works."""
    other = other_scheduler(kind=None)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        await new.probe.run_once()
        assert new.peers.others == {other}
        assert not new.peers.only_fellows
        with create_session() as session:
            session.execute(update(Job).where(Job.id == other).values(executor_class=REDESIGNED_KIND))
        assert (await new.probe.run_once()).wakes == ("sweep",)
        await new.sweep.run_once()
        assert new.peers.only_fellows


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


async def test_between_looks_only_runs_in_hand_are_locked(
    airflow_db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [1]))
    for number in range(4):
        create_run("dag", number)
    other_scheduler()
    claimed = []

    async def claim(*args: Any) -> Any:
        found = await claim_startable(*args)
        claimed.append(len(found))
        return found

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        await new.start.run_once()  # reads the dag, starts its own, and looks at the rest
        monkeypatch.setattr("async_scheduler.routines.redesigned.start.claim_startable", claim)
        clock.now += STARTS_LOOK_EVERY / 2
        outcome = await new.start.run_once()
        assert outcome.due_in == pytest.approx(STARTS_LOOK_EVERY / 2)
        assert claimed == [0]
        clock.now += STARTS_LOOK_EVERY / 2
        await new.start.run_once()
        assert claimed == [0, 0, 2]


async def test_once_the_other_has_started_what_was_left_nothing_is_waited_for(
    airflow_db: Database, clock: Clock
) -> None:
    write_dags(layered_dag("dag", [1]))
    for number in range(2):
        create_run("dag", number)
    other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        assert (await new.start.run_once()).due_in == pytest.approx(STARTS_LEFT_FOR)
        with create_session() as session:
            session.execute(update(DagRun).values(state=DagRunState.RUNNING))
        clock.now += STARTS_LEFT_FOR
        assert (await new.start.run_once()).due_in is None


async def test_what_was_started_is_visited_though_the_look_at_the_rest_fails(
    airflow_db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [1]))
    runs = [create_run("dag", number).id for number in range(2)]
    other_scheduler()

    async def claim(session: Any, most: int, hand: Hand, room: Any) -> Any:
        if hand.is_all:
            raise ConnectionResetError
        return await claim_startable(session, most, hand, room)

    monkeypatch.setattr("async_scheduler.routines.redesigned.start.claim_startable", claim)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        with pytest.raises(ConnectionResetError):
            await new.start.run_once()
        assert [run in new.dirty for run in runs].count(True) == 1


async def test_runs_that_another_has_locked_are_looked_at_again_soon(
    airflow_db: Database, clock: Clock
) -> None:
    """No probe would see that it leaves some of them."""
    write_dags(layered_dag("dag", [1]))
    run = create_run("dag")
    other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        new.peers.deal_none_to(new.peers.others)
        waits = []
        with create_session(scoped=False) as session:
            session.execute(select(DagRun.id).where(DagRun.id == run.id).with_for_update())
            for seconds in (0.0, 0.01, 0.2, 0.5, 5.0):
                clock.now += seconds
                waits.append((await new.start.run_once()).due_in)
        assert waits == pytest.approx([0.05, 0.05, 0.21, 0.71, 1.0])
        assert (await new.start.run_once()).counts == {"started": 1}
        assert (await new.start.run_once()).due_in is None


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
