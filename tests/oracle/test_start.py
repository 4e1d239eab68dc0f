"""Both start stages, on the same queued runs until they start nothing more, start the same runs."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.backfill import Backfill, BackfillDagRun
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, select, update

from tests.oracle.test_critical_section import clear
from tests.support.dags import EPOCH, create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from async_scheduler.settings import Algorithm
    from tests.support.postgres import Database

numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class QueuedDag:
    """A dag with runs: the state of each and whether it belongs to the dag's backfill.

    ``after`` are days that order the runs; one beyond today makes a run wait.
    """

    states: tuple[str, ...]
    backfilled: tuple[bool, ...]
    after: tuple[int, ...]
    limit: int
    backfill_limit: int
    paused: bool
    backfill_paused: bool


COLUMNS = ("state", "start_date", "end_date", "last_scheduling_decision", "scheduled_by_job_id")
"""What starting a run may change."""
RUNS = 7
DAGS = st.builds(
    QueuedDag,
    states=st.tuples(*[st.sampled_from(("queued", "queued", "queued", "running", "success"))] * RUNS),
    backfilled=st.tuples(*[st.sampled_from((False, False, True))] * RUNS),
    after=st.permutations([*range(RUNS - 1), 40_000]).map(tuple),
    limit=st.integers(0, 5),
    backfill_limit=st.integers(1, 3),
    paused=st.sampled_from((False, False, False, True)),
    backfill_paused=st.sampled_from((False, False, True)),
)


def store(dags: list[QueuedDag]) -> None:
    """Store dags, runs and backfills."""
    ids = [f"dag_{next(numbers)}" for _ in dags]
    write_dags(
        *(
            layered_dag(dag_id, [1], max_active_runs=max(dag.limit, 1))
            for dag_id, dag in zip(ids, dags, strict=True)
        )
    )
    for dag_id, dag in zip(ids, dags, strict=True):
        runs = [create_run(dag_id, number) for number in range(RUNS)]
        with create_session() as session:
            values = {"is_paused": dag.paused, "max_active_runs": dag.limit}
            session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(values))
            backfill = _backfill(session, dag, dag_id) if any(dag.backfilled) else None
            for number, run in enumerate(runs):
                _store_run(session, dag, number, run, backfill)


def begin_again(before: list[dict[str, Any]]) -> None:
    """Let the runs stand as they did *before*."""
    statement = (
        update(DagRun.__table__)
        .where(DagRun.__table__.c.id == bindparam("run"))
        .values({name: bindparam(f"new_{name}") for name in COLUMNS})
    )
    with create_session() as session:
        session.connection().execute(statement, before)


def standing() -> list[dict[str, Any]]:
    """Return how the runs stand, for :func:`begin_again`."""
    c = DagRun.__table__.c
    with create_session() as session:
        rows = session.execute(select(c.id, *(c[name] for name in COLUMNS))).all()
    return [
        {"run": run, **{f"new_{name}": value for name, value in zip(COLUMNS, values, strict=True)}}
        for run, *values in rows
    ]


def _backfill(session: Any, dag: QueuedDag, dag_id: str) -> Backfill:
    backfill = Backfill(
        dag_id=dag_id,
        from_date=EPOCH,
        to_date=EPOCH,
        dag_run_conf={},
        max_active_runs=dag.backfill_limit,
        is_paused=dag.backfill_paused,
        reprocess_behavior="none",
    )
    session.add(backfill)
    session.flush()
    return backfill


def _store_run(session: Any, dag: QueuedDag, number: int, run: DagRun, backfill: Backfill | None) -> None:
    values: dict[str, Any] = {
        "_state": dag.states[number],
        "run_after": EPOCH + timedelta(days=dag.after[number]),
    }
    if dag.backfilled[number] and backfill is not None:
        values |= {"backfill_id": backfill.id, "run_type": "backfill"}
        session.add(
            BackfillDagRun(
                backfill_id=backfill.id,
                dag_run_id=run.id,
                logical_date=run.logical_date,
                sort_ordinal=dag.after[number] % 100 + 1,
            )
        )
    session.execute(update(DagRun).where(DagRun.id == run.id).values(values))


def started_by(algorithm: Algorithm) -> list[tuple[Any, ...]]:
    """Let one algorithm start what it may, and return what became of the runs."""

    async def run() -> None:
        chosen = replace(FAST, algorithm=algorithm)
        async with assembled(InstantExecutor(), settings=chosen) as assembly:
            routine = assembly.supervisor.drivers["start"].routine
            while True:
                outcome = await routine.run_once()
                if not (outcome.counts.get("started") or outcome.more):
                    return

    asyncio.run(run())
    c = DagRun.__table__.c
    columns = (c.run_id, c.run_after, c.state, c.start_date.is_not(None), c.end_date.is_not(None))
    with create_session() as session:
        return [tuple(row) for row in session.execute(select(*columns).order_by(c.id))]


def forget() -> None:
    """Delete what was stored."""
    with create_session() as session:
        session.query(BackfillDagRun).delete()
    clear()
    with create_session() as session:
        session.query(Backfill).delete()


@given(dags=st.lists(DAGS, min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_both_start_the_same_runs(airflow_db: Database, dags: list[QueuedDag]) -> None:
    store(dags)
    try:
        before = standing()
        ours = started_by("redesigned")
        begin_again(before)
        assert ours == started_by("upstream")
    finally:
        forget()
