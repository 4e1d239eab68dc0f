"""After the end of a run only its dag is asked for the next one, and all queued runs from time to time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.backfill import Backfill, BackfillDagRun
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import delete, select, update

from async_scheduler.routines.redesigned.peers import STARTS_LEFT_FOR
from async_scheduler.routines.redesigned.start import LOOK_AT_ALL_EVERY
from async_scheduler.routines.redesigned.taken import AT_LEAST_EVERY, LOOK_AGAIN, Taken
from async_scheduler.store.queued import ALL_RUNS, Hand, claim_startable
from tests.redesigned.test_peers import on, other_scheduler
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED, run_states
from tests.redesigned.test_unlocked import give_state, visit
from tests.support.dags import EPOCH, create_run, layered_dag, scheduled_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from tests.support.clock import Clock
    from tests.support.postgres import Database


def write_full_dags(*dag_ids: str) -> dict[str, int]:
    """Store dags that may have one running run, that one and two more of each; return the first ones."""
    write_dags(*(layered_dag(dag_id, [1], max_active_runs=1) for dag_id in dag_ids))
    first = {}
    for number, dag_id in enumerate(dag_ids):
        first[dag_id] = create_run(dag_id, 10 * number, state=DagRunState.RUNNING).id
        for later in (1, 2):
            create_run(dag_id, 10 * number + later)
    return first


async def begin(assembly: Assembly, *runs: int) -> None:
    """Let the dags be read, and all queued runs be looked at."""
    await visit(assembly, *runs)
    outcome = await assembly.supervisor.drivers["start"].routine.run_once()
    assert outcome.counts == {"started": 0}


async def end(assembly: Assembly, run: int) -> None:
    """Let *run* be over, and this scheduler find it."""
    give_state(run, "success")
    assert (await visit(assembly, run)).counts["ended"] == 1


async def test_the_end_of_a_run_lets_its_dag_be_looked_at_and_no_other(
    airflow_db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_full_dags("one", "other")
    asked: list[tuple[Any, list[str]]] = []

    async def claim(session: Any, most: int, hand: Any, room: Any) -> Any:
        asked.append((hand, sorted(room)))
        return await claim_startable(session, most, hand, room)

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await begin(assembly, *first.values())
        monkeypatch.setattr("async_scheduler.routines.redesigned.start.claim_startable", claim)
        await end(assembly, first["one"])
        outcome = await new.start.run_once()
        assert outcome.counts == {"started": 1}
        assert outcome.due_in == LOOK_AT_ALL_EVERY
        assert asked == [(None, ["one"])]
    assert run_states() == ["success", "running", "queued", "running", "queued", "queued"]


async def test_new_runs_of_others_are_looked_at_once_the_probe_has_seen_them(
    airflow_db: Database, clock: Clock
) -> None:
    first = write_full_dags("one")
    write_dags(layered_dag("new", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.probe.run_once()
        await begin(assembly, *first.values())
        await end(assembly, first["one"])
        create_run("new", 50)  # by a user
        await new.probe.run_once()
        assert (await new.start.run_once()).counts == {"started": 2}


async def test_what_else_may_start_is_found_within_a_second(airflow_db: Database, clock: Clock) -> None:
    first = write_full_dags("one", "other")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await begin(assembly, *first.values())
        write_dags(layered_dag("new", [1]))
        await end(assembly, first["one"])
        assert (await new.start.run_once()).counts == {"started": 1}
        create_run("new", 50)  # by a user
        outcome = await new.start.run_once()
        assert (outcome.counts, outcome.due_in) == ({"started": 0}, LOOK_AT_ALL_EVERY)
        clock.now += LOOK_AT_ALL_EVERY
        assert (await new.start.run_once()).counts == {"started": 1}


async def test_without_ends_every_pass_looks_at_all(airflow_db: Database, clock: Clock) -> None:
    """A run that a user queues starts at once where nothing else goes on."""
    first = write_full_dags("one")
    write_dags(layered_dag("new", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await begin(assembly, *first.values())
        create_run("new", 50)
        outcome = await new.start.run_once()
        assert (outcome.counts, outcome.due_in) == ({"started": 1}, None)


async def test_what_was_started_is_visited_before_the_rest_is_looked_at(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag", 1), create_run("dag", 2)
    other_scheduler()
    woken = []

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        visits = assembly.supervisor.drivers["schedule"].wakeup

        async def claim(session: Any, most: int, hand: Any, room: Any) -> Any:
            woken.append((hand == ALL_RUNS, visits.is_set))
            return await claim_startable(session, most, hand, room)

        await new.sweep.run_once()
        visits.clear()
        monkeypatch.setattr("async_scheduler.routines.redesigned.start.claim_startable", claim)
        assert (await new.start.run_once()).counts == {"started": 1}
    assert woken == [(False, False), (False, False), (True, True)]  # the dag is read after the first


async def test_runs_created_here_are_looked_at_at_once(airflow_db: Database, clock: Clock) -> None:
    first = write_full_dags("one")
    write_dags(layered_dag("new", [1]))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await begin(assembly, *first.values())
        await end(assembly, first["one"])
        create_run("new", 50)
        new.dirty.note_new_runs()
        assert (await new.start.run_once()).counts == {"started": 2}


async def test_creation_notes_its_runs(airflow_db: Database) -> None:
    write_dags(scheduled_dag("dag"))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = assembly.redesigned
        assert new is not None
        assert not new.dirty.take_new_runs()
        outcome = await assembly.supervisor.drivers["create"].routine.run_once()
        assert new.dirty.take_new_runs() == (outcome.counts["created"] > 0) is True


async def test_a_window_that_was_filled_is_followed_by_a_look_at_all(
    airflow_db: Database, clock: Clock
) -> None:
    """What else has room is not remembered."""
    first = write_full_dags("one", "other")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await begin(assembly, *first.values())
        new.start._window = 1
        for run in first.values():
            await end(assembly, run)
        outcome = await new.start.run_once()
        assert (outcome.counts, outcome.more) == ({"started": 1}, True)
        assert (await new.start.run_once()).counts == {"started": 1}
    assert run_states() == ["success", "running", "queued"] * 2


async def test_a_dag_that_cannot_be_read_is_named_once_though_others_are_looked_at_in_between(
    airflow_db: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    first = write_full_dags("one")
    write_dags(layered_dag("broken", [1]))
    create_run("broken", 50)
    with create_session() as session:
        session.execute(delete(SerializedDagModel).where(SerializedDagModel.dag_id == "broken"))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await begin(assembly, *first.values())
        await end(assembly, first["one"])
        assert (await new.start.run_once()).counts == {"started": 1}
        clock.now += LOOK_AT_ALL_EVERY
        await new.start.run_once()
    assert caplog.text.count("DAG 'broken' not found in serialized_dag table") == 1


def test_what_is_locked_is_looked_at_again_ever_less_often(clock: Clock) -> None:
    taken = Taken(clock)
    waits = [taken.again_in()]
    for seconds, progressed in ((0.0, False), (0.01, False), (0.2, True), (5.0, False), (0.0, True)):
        clock.now += seconds
        taken.note(True, progressed=progressed)
        waits.append(taken.again_in())
    assert waits == pytest.approx([None, LOOK_AGAIN, LOOK_AGAIN, 0.21, AT_LEAST_EVERY, LOOK_AGAIN])


def test_a_look_at_some_of_it_does_not_put_off_the_next_one(clock: Clock) -> None:
    taken = Taken(clock)
    taken.note_more()
    waits = [taken.again_in()]
    clock.now += LOOK_AGAIN / 2
    taken.note_more()
    waits.append(taken.again_in())
    assert waits == pytest.approx([LOOK_AGAIN, LOOK_AGAIN / 2])


def test_the_next_look_comes_due_and_ends_with_what_it_was_for(clock: Clock) -> None:
    taken = Taken(clock)
    taken.note(True)
    due = [taken.is_due]
    clock.now += LOOK_AGAIN
    due.append(taken.is_due)
    taken.note(False)
    assert [*due, taken.is_due, taken.again_in()] == [False, True, False, None]


@pytest.mark.parametrize("locked", ["one run", "all runs"])
async def test_runs_that_somebody_has_locked_are_looked_at_again_soon(
    locked: str, airflow_db: Database, clock: Clock
) -> None:
    """Also where others were claimed in the same pass, and where no other scheduler is alive."""
    write_dags(layered_dag("dag", [1]))
    runs = [create_run("dag", number).id for number in range(3)]
    held = runs[:1] if locked == "one run" else runs
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        with create_session(scoped=False) as session:
            session.execute(select(DagRun.id).where(DagRun.id.in_(held)).with_for_update())
            outcomes = [await new.start.run_once() for _ in range(2)]
        assert [one.counts["started"] for one in outcomes] == [3 - len(held), 0]
        assert [one.due_in for one in outcomes] == pytest.approx([LOOK_AGAIN] * 2)
        assert (await new.start.run_once()).counts == {"started": len(held)}
        assert (await new.start.run_once()).due_in is None


async def test_runs_whose_backfill_is_locked_are_looked_at_again_soon(
    airflow_db: Database, clock: Clock
) -> None:
    write_dags(layered_dag("dag", [1]))
    backfill = put_in_backfill(create_run("dag", 0).id)
    create_run("dag", 1)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        with create_session(scoped=False) as session:
            session.execute(select(Backfill.id).where(Backfill.id == backfill).with_for_update())
            outcomes = [await new.start.run_once() for _ in range(2)]
        assert [one.counts["started"] for one in outcomes] == [1, 0]
        assert [one.due_in for one in outcomes] == pytest.approx([LOOK_AGAIN] * 2)
        assert (await new.start.run_once()).counts == {"started": 1}
        assert (await new.start.run_once()).due_in is None


async def test_a_window_full_of_a_locked_backfill_is_not_filled_again_at_once(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    backfill = put_in_backfill(create_run("dag", 0).id)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        start = stages(assembly).start
        start._window = 1
        with create_session(scoped=False) as session:
            session.execute(select(Backfill.id).where(Backfill.id == backfill).with_for_update())
            outcome = await start.run_once()
        assert (outcome.counts, outcome.more) == ({"started": 0}, False)


@pytest.mark.parametrize("dealt_here", [True, False])
async def test_the_locked_next_run_of_a_dag_is_asked_for_again_while_other_runs_end(
    dealt_here: bool, airflow_db: Database, clock: Clock
) -> None:
    first = write_full_dags("one", "other")
    if not dealt_here:
        other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        await begin(assembly, *first.values())
        if not dealt_here:
            new.peers.hand = lambda: Hand(0, 1000)  # type: ignore[method-assign]
        outcomes = []
        await end(assembly, first["one"])
        with create_session(scoped=False) as session:
            session.execute(select(DagRun.id).where(DagRun.dag_id == "one").with_for_update())
            outcomes.append(await new.start.run_once())
            await end(assembly, first["other"])
            outcomes.append(await new.start.run_once())
        clock.now += LOOK_AGAIN
        outcomes.append(await new.start.run_once())
    assert [one.counts["started"] for one in outcomes] == [0, 1, 1]
    assert [one.due_in for one in outcomes[:2]] == pytest.approx([LOOK_AGAIN] * 2)


async def test_what_was_locked_elsewhere_is_looked_at_again_though_a_run_ends_here(
    airflow_db: Database, clock: Clock
) -> None:
    write_dags(layered_dag("free", [1]))
    first = write_full_dags("full", "other")
    locked = create_run("free", 50).id
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        with create_session(scoped=False) as session:
            session.execute(select(DagRun.id).where(DagRun.id == locked).with_for_update())
            await begin(assembly, *first.values())
            seen = []
            for dag_id in ("full", "other"):  # the first one makes *start* busy with what has room
                await end(assembly, first[dag_id])
                seen.append((await new.start.run_once()).counts["started"])
        clock.now += LOOK_AGAIN
        seen.append((await new.start.run_once()).counts["started"])
    assert seen == [1, 1, 1]


async def test_dags_are_not_kept_in_mind_for_ever_for_the_sake_of_a_locked_run(
    airflow_db: Database, clock: Clock
) -> None:
    first = write_full_dags("one", "other")
    other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        await begin(assembly, *first.values())
        for dag_id in ("one", "other"):
            await end(assembly, first[dag_id])
        kept = []
        with create_session(scoped=False) as session:
            session.execute(select(DagRun.id).where(DagRun.dag_id == "one").with_for_update())
            for seconds in (0.0, STARTS_LEFT_FOR / 2, STARTS_LEFT_FOR / 2):
                clock.now += seconds
                await new.start.run_once()
                kept.append(set(new.dirty._room))
    assert kept == [{"one"}, {"one"}, set()]


@pytest.mark.parametrize("own", [True, False])
async def test_beside_others_only_what_is_dealt_here_is_asked_for_again(
    own: bool, airflow_db: Database, clock: Clock
) -> None:
    write_dags(layered_dag("dag", [1]))
    runs = [create_run("dag", number).id for number in range(4)]
    other_scheduler()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        locked = next(run for run in runs if (new.peers.dealt_to(run) is None) is own)
        with create_session(scoped=False) as session:
            session.execute(select(DagRun.id).where(DagRun.id == locked).with_for_update())
            outcome = await new.start.run_once()
    assert outcome.counts == {"started": 1 if own else 2}
    assert outcome.due_in == pytest.approx(LOOK_AGAIN if own else STARTS_LEFT_FOR)


def put_in_backfill(run: int) -> int:
    """Make a backfill of *run* and return its id."""
    with create_session() as session:
        made = Backfill(
            dag_id="dag",
            from_date=EPOCH,
            to_date=EPOCH,
            dag_run_conf={},
            max_active_runs=3,
            reprocess_behavior="none",
        )
        session.add(made)
        session.flush()
        session.execute(
            update(DagRun).where(DagRun.id == run).values(backfill_id=made.id, run_type="backfill")
        )
        session.add(BackfillDagRun(backfill_id=made.id, dag_run_id=run, logical_date=EPOCH, sort_ordinal=1))
        return int(made.id)


async def test_a_window_of_which_more_might_start_is_not_taken_for_locked_runs(
    airflow_db: Database, clock: Clock
) -> None:
    write_dags(layered_dag("dag", [1]))
    for number in range(3):
        create_run("dag", number)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        new.start._window = 2
        outcomes = [await new.start.run_once() for _ in range(3)]
        assert [(one.counts["started"], one.more, one.due_in) for one in outcomes] == [
            (2, True, None),
            (1, False, None),
            (0, False, None),
        ]
