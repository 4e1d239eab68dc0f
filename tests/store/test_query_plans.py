"""With a long past in the tables, no hot statement reads all of it."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg2
import pytest
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect

import async_scheduler.store.creation
import async_scheduler.store.instances
import async_scheduler.store.queued
import async_scheduler.store.running
import async_scheduler.store.unlocked  # noqa: F401  (registers its statements)
from async_scheduler.store.dialect import POSTGRESQL, STATEMENTS
from poc_bench.past import without_indexes
from tests.support.dags import create_run, layered_dag, write_dags

if TYPE_CHECKING:
    from tests.support.postgres import Database

PAST = """
INSERT INTO dag_run (dag_id, run_id, logical_date, run_after, state, run_type, clear_number, span_status)
SELECT 'dag', 'past_' || n, timestamptz '2020-01-01' + n * interval '1 min', '2020-01-01', 'success',
       'scheduled', 0, 'not_started' FROM generate_series(1, {runs}) n;
INSERT INTO task_instance (id, dag_id, task_id, run_id, map_index, state, try_number, pool, pool_slots,
                           updated_at, span_status)
SELECT lpad(to_hex(100 * n + t), 32, '0')::uuid, 'dag', 'l0_t' || t, 'past_' || n, -1, 'success', 1,
       'default_pool', 1, now(), 'not_started' FROM generate_series(1, {runs}) n, generate_series(1, 50) t
"""
HOT = (
    "queued.claim",
    "queued.claim_in_room",
    "queued.still_queued",
    "queued.still_queued_in_room",
    "running.claim",
    "running.fingerprint",
    "running.examined",
    "running.unverified",
    "running.touch",
    "running.close",
    "instances.states",
    "instances.schedule",
    "instances.succeed",
    "instances.flag",
    "instances.first_starts",
    "events.reported",
    "events.reported_by_key",
    "pools.occupied",
    "candidates.first",
    "candidates.first_with_room",
    "unlocked.see",
    "unlocked.schedule",
    "unlocked.end",
    "scheduled.queue",
    "scheduled.leftover",
    "waiting.waiting",
)


DIALECT: Any = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]


def write_past(runs: int) -> None:
    """Write finished runs of 50 task instances each."""
    with create_session() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))  # no look-up for each row
        with without_indexes(session.connection().connection.cursor(), ("dag_run", "task_instance")):
            for statement in PAST.format(runs=runs).split(";"):
                session.execute(text(statement))
        session.execute(text("ANALYZE"))


async def explain(connection: Any, name: str, given: dict[str, Any]) -> str:
    """Return the plan of a statement with these parameters."""
    compiled = STATEMENTS[name](POSTGRESQL).compile(dialect=DIALECT)
    expanded = compiled.construct_expanded_state(given)
    values = [expanded.parameters[key] for key in expanded.positiontup]
    rows = await connection.fetch(f"EXPLAIN {expanded.statement}", *values)
    return "\n".join(row[0] for row in rows)


def explain_for_all(connection: Any, name: str) -> str:
    """Return the plan that the server keeps, made without knowing any parameter."""
    compiled = STATEMENTS[name](POSTGRESQL).compile(dialect=DIALECT)
    given = {key: None if bind.required else bind.value for key, bind in compiled.binds.items()}
    expanded = compiled.construct_expanded_state(given)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (GENERIC_PLAN) {expanded.statement}")
        return "\n".join(row[0] for row in cursor)


MILLIONS = pytest.param(60_000, id="3 million", marks=[pytest.mark.deep, pytest.mark.timeout(900)])


@pytest.mark.parametrize("past", [pytest.param(1000, id="50,000"), MILLIONS])
async def test_no_hot_statement_reads_the_whole_past(airflow_db: Database, past: int) -> None:
    write_dags(layered_dag("dag", [5, 5]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING) for number in range(5)]
    write_past(past)
    connection = await asyncpg.connect(host=airflow_db.socket_dir, user="postgres", database=airflow_db.name)
    try:
        ids = [
            row[0] for row in await connection.fetch("SELECT id FROM task_instance WHERE run_id = 'run_1'")
        ]
        given = _parameters([run.id for run in runs], ids)
        for name in HOT:
            instances = name.startswith("instances.") and name not in (
                "instances.states",
                "instances.first_starts",
            )
            chosen = (
                {**given, "ids": ids}
                if instances or name in ("scheduled.queue", "events.reported")
                else given
            )
            _judge(name, await explain(connection, name, chosen), past)
    finally:
        await connection.close()
    where = {"host": airflow_db.socket_dir, "user": "postgres", "dbname": airflow_db.name}
    with closing(psycopg2.connect(**where)) as kept:
        for name in HOT:
            _judge(name, explain_for_all(kept, name), past)


def _judge(name: str, plan: str, past: int) -> None:
    """Refuse to read all of a table; a thousand runs may be read, they are as quick as any index."""
    if past > 1000:
        assert "Seq Scan on dag_run " not in plan + " ", f"{name}\n{plan}"
    assert "Seq Scan on task_instance " not in plan + " ", f"{name}\n{plan}"
    if name.startswith("candidates."):
        assert "idx_dag_run_dag_id" not in plan, f"reads all runs of a dag\n{plan}"


def _parameters(runs: list[int], instances: list[Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "ids": runs,
        "touched": runs,
        "kept": runs[:1],
        "closed": runs,
        "ended_as": "success",
        "now": now,
        "updated_at": now,
        "job": 1,
        "old": "",
        "new": "skipped",
        "most": 100,
        "position": 0,
        "of": 2,
        "room": ["dag"],
        "owners": [1],
        "theirs": False,
        "since": now,
        "keys_0": ["dag"] * 3,
        "keys_1": ["l0_t0", "l0_t1", "l0_t2"],
        "keys_2": ["run_1"] * 3,
        "keys_3": [-1] * 3,
        "seen_0": runs,
        "seen_1": ["1"] * len(runs),
        "seen_2": ["success"] * len(runs),
        "wanted_0": instances,
        "wanted_1": [runs[0]] * len(instances),
    }


OF_A_RUN = (
    "instances.states",
    "instances.packed",
    "instances.first_starts",
    "running.fingerprint",
    "unlocked.see",
)
"""They read the task instances of some runs, and are asked over and over while these run."""


async def test_plans_kept_for_a_few_large_runs_read_no_other_ones(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [10] * 30))
    for number in range(40):
        create_run("dag", number, state=DagRunState.RUNNING)
    where = {"host": airflow_db.socket_dir, "user": "postgres", "dbname": airflow_db.name}
    with closing(psycopg2.connect(**where)) as kept:
        with kept.cursor() as cursor:
            cursor.execute("ANALYZE")
        for name in OF_A_RUN:
            plan = explain_for_all(kept, name)
            assert "ti_dag_run" in plan, f"{name}\n{plan}"
            assert "Seq Scan on task_instance " not in plan, f"{name}\n{plan}"


@pytest.mark.parametrize("name", HOT)
def test_hot_statement_exists(name: str) -> None:
    assert name in STATEMENTS
