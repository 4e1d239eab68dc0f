"""New dag runs: the dags that are due, and their task instances in bulk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.models.asset import AssetDagRunQueue, AssetPartitionDagRun
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.tasklog import LogTemplate
from sqlalchemy import (
    ARRAY,
    Integer,
    LargeBinary,
    Text,
    bindparam,
    cast,
    column,
    false,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect

from async_scheduler.store.connection import run_on_connection
from async_scheduler.store.dialect import Dialect, among, dialect_of, keyed, keys, locked, statement
from async_scheduler.store.running import latest_version
from async_scheduler.store.tables import DAG, INSTANCE, RUN, SERIALIZED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Insert, Select
    from sqlalchemy.ext.asyncio import AsyncSession


class CreationWork(NamedTuple):
    """Whether anything waits to become a dag run."""

    scheduled: bool
    by_assets: bool


def due_work() -> list[Any]:
    """Return the conditions on a dag that is due by its timetable (``DagModel.dags_needing_dagruns``)."""
    c = DAG.c
    return [
        c.is_paused == false(),
        c.is_stale == false(),
        c.has_import_errors == false(),
        c.exceeds_max_non_backfill == false(),
        c.next_dagrun_create_after <= func.now(),
    ]


def asset_work() -> Any:
    """Return the condition that asset events or partitions wait to become runs."""
    queued, partitions = AssetDagRunQueue.__table__, AssetPartitionDagRun.__table__
    return (
        select(1).select_from(queued).exists()
        | select(1).where(partitions.c.created_dag_run_id.is_(None)).exists()
    )


@statement
def work(dialect: Dialect) -> Select[Any]:
    """Select whether a dag is due, and whether asset events or partitions wait."""
    query: Any = select(select(1).where(*due_work()).exists(), asset_work())
    return query  # type: ignore[no-any-return]


async def find_work(session: AsyncSession) -> CreationWork:
    """Return what kinds of runs wait to be created. Locks nothing."""
    row = (await session.execute(work(dialect_of(session)))).one()
    return CreationWork(bool(row[0]), bool(row[1]))


class DueDag(NamedTuple):
    """A dag that is due, locked, with its latest version and the hash of that version's serialized form."""

    dag: DagModel
    version: UUID | None
    dag_hash: str | None


@statement
def due(dialect: Dialect) -> Select[Any]:
    """Lock the *most* dags that have been due the longest."""
    version = latest_version(DAG).scalar_subquery()
    dag_hash = select(SERIALIZED.c.dag_hash).where(SERIALIZED.c.dag_version_id == version).correlate(DAG)
    query = (
        select(DagModel, version, dag_hash.scalar_subquery())
        .where(*due_work())
        .order_by(DAG.c.next_dagrun_create_after)
        .limit(bindparam("most", type_=Integer))
    )
    return locked(query, DAG, dialect, skip=True)


async def claim_due_dags(session: AsyncSession, most: int) -> list[DueDag]:
    """Lock dags that are due by their timetable and return them (``DagModel.dags_needing_dagruns``).

    Locks: ``dag`` NO KEY UPDATE SKIP LOCKED, until the commit.
    """
    rows = await session.execute(due(dialect_of(session)), {"most": most})
    return [DueDag._make(row) for row in rows]


@statement
def existing(dialect: Dialect) -> Select[Any]:
    """Select the runs of the dags *dag_ids* at or after the logical date that is due."""
    return (
        select(DagRun)
        .join(DAG, DAG.c.dag_id == RUN.c.dag_id)
        .where(among(RUN.c.dag_id, "dag_ids", dialect), RUN.c.logical_date >= DAG.c.next_dagrun)
    )


async def load_existing(
    session: AsyncSession, dag_ids: Collection[str]
) -> dict[tuple[str, datetime | None], DagRun]:
    """Return the runs that creation might repeat, by dag and logical date. Locks nothing."""
    runs = await session.scalars(existing(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    return {(run.dag_id, run.logical_date): run for run in runs.all()}


@statement
def taken(dialect: Dialect) -> Select[Any]:
    """Select those of the runs *runs*, by dag and run id, that exist."""
    c = RUN.c
    return select(c.dag_id, c.run_id).where(keyed((c.dag_id, c.run_id), "runs", dialect))


async def find_taken(session: AsyncSession, ids: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those of *ids*, each a dag's and a run's, that a run has already. Locks nothing."""
    dialect = dialect_of(session)
    rows = await session.execute(taken(dialect), keys("runs", ids, dialect))
    return {(row[0], row[1]) for row in rows}


@statement
def active(dialect: Dialect) -> Select[Any]:
    """Count the queued and running runs, backfills apart, of the dags *dag_ids*."""
    c = RUN.c
    return (
        select(c.dag_id, func.count())
        .where(
            among(c.dag_id, "dag_ids", dialect),
            c.state.in_(("queued", "running")),
            c.run_type != "backfill",
        )
        .group_by(c.dag_id)
    )


async def count_active_runs(session: AsyncSession, dag_ids: Collection[str]) -> dict[str, int]:
    """Return the active runs by dag (``DagRun.active_runs_of_dags``). Locks nothing."""
    rows = await session.execute(active(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    return {row[0]: row[1] for row in rows}


@statement
def log_template(dialect: Dialect) -> Select[Any]:
    """Select the newest log template."""
    return select(func.max(LogTemplate.__table__.c.id))


async def newest_log_template(session: AsyncSession) -> int:
    """Return the id of the log template for new runs, 0 without any."""
    return int(await session.scalar(log_template(dialect_of(session))) or 0)


@dataclass(slots=True)
class NewInstances:
    """Task instances to insert: what is their own, and by number the run and the template they share.

    ``runs`` holds the :data:`RUN_COLUMNS`, ``templates`` the :data:`TEMPLATE_COLUMNS`; numbers count from 1.
    """

    runs: list[tuple[str, str, UUID]] = field(default_factory=list)
    templates: list[tuple[Any, ...]] = field(default_factory=list)
    ids: list[UUID] = field(default_factory=list)
    run_numbers: list[int] = field(default_factory=list)
    template_numbers: list[int] = field(default_factory=list)
    map_indexes: list[int] = field(default_factory=list)
    carriers: list[dict[str, str]] = field(default_factory=list)


RUN_COLUMNS = ("dag_id", "run_id", "dag_version_id")
TEMPLATE_COLUMNS = (
    "task_id",
    "queue",
    "pool",
    "pool_slots",
    "priority_weight",
    "max_tries",
    "executor",
    "executor_config",
    "operator",
    "custom_operator_name",
    "task_display_name",
)
_OWN = ("id", "run_number", "template_number", "map_index", "carrier")


def _column_type(name: str) -> Any:
    if name.endswith("_number"):
        return Integer()
    if name == "carrier":
        return Text()
    # Pickled by the caller: an array cannot be bound through the column's own type.
    return LargeBinary() if name == "executor_config" else INSTANCE.c[name].type


def _given(table: str, names: Sequence[str]) -> Any:
    """Return parallel array parameters as a table whose rows are numbered from 1 as ``n``."""
    arrays = [bindparam(f"{table}_{name}", type_=ARRAY(_column_type(name))) for name in names]
    columns = [column(name, _column_type(name)) for name in names]
    unnested = func.unnest(*arrays).table_valued(*columns, with_ordinality="n", name=table)
    return unnested.render_derived()


@statement
def instances(dialect: Dialect) -> Insert:
    """Insert task instances; on PostgreSQL from arrays in which each run and template stands once."""
    if not dialect.is_postgresql:
        return insert(INSTANCE)
    own, runs, templates = (
        _given("own", _OWN),
        _given("runs", RUN_COLUMNS),
        _given("templates", TEMPLATE_COLUMNS),
    )
    columns: dict[str, Any] = {
        "id": own.c.id,
        "map_index": own.c.map_index,
        "context_carrier": cast(own.c.carrier, JSONB),
        "try_number": literal(0),
        "hostname": literal(""),
        "unixname": bindparam("unixname", type_=Text),
        "updated_at": bindparam("now", type_=INSTANCE.c.updated_at.type),
        **{name: runs.c[name] for name in RUN_COLUMNS},
        **{name: templates.c[name] for name in TEMPLATE_COLUMNS},
    }
    rows = (
        select(*columns.values())
        .select_from(own)
        .join(runs, runs.c.n == own.c.run_number)
        .join(templates, templates.c.n == own.c.template_number)
    )
    return insert(INSTANCE).from_select(list(columns), rows, include_defaults=False)


async def insert_instances(session: AsyncSession, new: NewInstances, unixname: str, now: datetime) -> None:
    """Insert task instances of runs that this transaction has inserted.

    Mirrors ``DagRun._create_task_instances`` with ``TaskInstance.insert_mapping``. Locks: the rows are new,
    their runs this transaction's own.
    """
    if not new.ids:
        return
    dialect = dialect_of(session)
    if not dialect.is_postgresql:
        await run_on_connection(session, instances(dialect), list(_as_rows(new, unixname, now)))
        return
    # A dialect without a driver: one's wrapper for bytes cannot stand in an array.
    pickled: Any = INSTANCE.c.executor_config.type.bind_processor(PGDialect())  # type: ignore[no-untyped-call]
    templates = [
        tuple(
            pickled(value) if name == "executor_config" else value
            for name, value in zip(TEMPLATE_COLUMNS, template, strict=True)
        )
        for template in new.templates
    ]
    own = (new.ids, new.run_numbers, new.template_numbers, new.map_indexes, _encoded(new.carriers))
    parameters = {
        "unixname": unixname,
        "now": now,
        **_arrays("runs", RUN_COLUMNS, new.runs),
        **_arrays("templates", TEMPLATE_COLUMNS, templates),
        **{f"own_{name}": values for name, values in zip(_OWN, own, strict=True)},
    }
    await run_on_connection(session, instances(dialect), parameters)


def _arrays(table: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    columns = zip(*rows, strict=True)
    return {f"{table}_{name}": list(values) for name, values in zip(names, columns, strict=True)}


def _encoded(carriers: Sequence[dict[str, str]]) -> list[str]:
    """Return carriers as their column's type stores them: Airflow's serialization of a dictionary."""
    encoded: list[str] = []
    before: dict[str, str] | None = None
    for carrier in carriers:
        # Without tracing all instances of a run have its carrier.
        again = carrier is before
        encoded.append(encoded[-1] if again else json.dumps({"__var": carrier, "__type": "dict"}))
        before = carrier
    return encoded


def _as_rows(new: NewInstances, unixname: str, now: datetime) -> Iterator[dict[str, Any]]:
    own = zip(new.ids, new.run_numbers, new.template_numbers, new.map_indexes, new.carriers, strict=True)
    for instance, run, template, map_index, carrier in own:
        yield {
            "id": instance,
            "map_index": map_index,
            "context_carrier": carrier,
            "try_number": 0,
            "hostname": "",
            "unixname": unixname,
            "updated_at": now,
            **dict(zip(RUN_COLUMNS, new.runs[run - 1], strict=True)),
            **dict(zip(TEMPLATE_COLUMNS, new.templates[template - 1], strict=True)),
        }
