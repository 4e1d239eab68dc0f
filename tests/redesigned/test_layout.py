"""What is remembered of a run's task instances is never trusted longer than it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.taskinstance import TaskInstance, uuid7
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from async_scheduler.database.transaction import transaction
from async_scheduler.decide.states import NAMES
from async_scheduler.routines.redesigned.layout import Layout, Layouts, PackedIds, lay_out_runs
from async_scheduler.store.instances import unpack
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_scheduler.assembly import Assembly
    from async_scheduler.decide.plan import DagPlan
    from tests.support.postgres import Database


async def pictures(assembly: Assembly, plan: DagPlan, run: int, layouts: Layouts) -> tuple[Any, Any]:
    """Return what a visit that remembers sees of the run, and what one that does not."""
    seen = []
    for memory in (layouts, Layouts()):
        async with transaction(assembly._sessions) as tx:
            laid, strange = await lay_out_runs(tx.session, {run: plan}, memory)
        assert not strange
        board, ids = laid[run]
        seen.append(
            (
                list(board.tasks),
                list(board.map_indexes),
                list(board.states),
                [ids[position] for position in range(len(board.states))],
                board.rows,
                board.finished_rows,
            )
        )
    return seen[0], seen[1]


def change(**values: Any) -> Callable[[], None]:
    """Return a change of one task instance."""

    def apply() -> None:
        with create_session(scoped=False) as session:
            chosen = select(TaskInstance.id).where(TaskInstance.task_id == "l1_t0").scalar_subquery()
            session.execute(update(TaskInstance).where(TaskInstance.id == chosen).values(**values))

    return apply


def remove() -> None:
    """Delete a task instance."""
    with create_session(scoped=False) as session:
        session.execute(delete(TaskInstance).where(TaskInstance.task_id == "l1_t0"))


def every_state() -> None:
    """Give each task instance a state of its own."""
    with create_session(scoped=False) as session:
        rows = session.scalars(select(TaskInstance.id).order_by(TaskInstance.id)).all()
        for instance, state in zip(rows, NAMES, strict=False):
            session.execute(update(TaskInstance).where(TaskInstance.id == instance).values(state=state))


CHANGES = {
    "nothing": lambda: None,
    "a state": change(state="failed"),
    "every state": every_state,
    "another id, as a retry gives": change(id=uuid7(), state="up_for_retry"),
    "a map index": change(map_index=0),
    "one less": remove,
}


@pytest.mark.parametrize("name", CHANGES)
async def test_remembering_changes_nothing(airflow_db: Database, name: str) -> None:
    write_dags(layered_dag("dag", [5, 5, 5]))
    run = create_run("dag", 0, state=DagRunState.RUNNING)
    layouts = Layouts()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        new.dirty.mark([run.id])
        await new.schedule.run_once()  # reads the dag
        (compiled,) = new.plans._compiled.values()
        plan = compiled.plan
        first = await pictures(assembly, plan, run.id, layouts)
        assert first[0] == first[1]
        assert len(layouts) == 1
        CHANGES[name]()
        for _ in range(2):  # the second look finds what the first one has learnt
            remembering, afresh = await pictures(assembly, plan, run.id, layouts)
            assert remembering == afresh


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=60), st.integers(0, 200))
@settings(max_examples=200)
def test_the_memory_keeps_within_its_room(steps: list[tuple[int, int]], room: int) -> None:
    layouts = Layouts(room)
    plan: Any = object()
    expected: dict[int, int] = {}
    for run, size in steps:
        layouts.keep(run, _layout(plan, size))
        expected.pop(run, None)
        expected[run] = size
        while sum(expected.values()) > room:
            del expected[next(iter(expected))]
    assert {run for run in range(10) if layouts.get(run, plan)} == expected.keys()
    other: Any = object()
    assert not any(layouts.get(run, other) for run in range(10))
    for run in range(10):
        layouts.forget(run)
    assert len(layouts) == layouts._instances == 0


def _layout(plan: Any, size: int) -> Layout:
    from array import array
    from decimal import Decimal

    return Layout(plan, Decimal(0), range(size), array("i"), array("I", range(size)), PackedIds([]))


def test_letters_are_unpacked_and_unknown_ones_refused() -> None:
    assert list(unpack("abfn")) == [0, 1, 5, 13]
    with pytest.raises(KeyError, match=r"\?"):
        unpack("ab?")
