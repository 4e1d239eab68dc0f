"""Serialized dags by dag version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.models.serialized_dag import SerializedDagModel
from sqlalchemy import Select, select

from async_scheduler.store.dialect import Dialect, among, dialect_of, statement
from async_scheduler.store.tables import SERIALIZED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession


@statement
def hashes(dialect: Dialect) -> Select[Any]:
    """Select the hash of the serialized form of the dag versions *versions*."""
    c = SERIALIZED.c
    return select(c.dag_version_id, c.dag_hash).where(among(c.dag_version_id, "versions", dialect))


@statement
def serialized(dialect: Dialect) -> Select[Any]:
    """Select the serialized form of the dag versions *versions*."""
    return select(SerializedDagModel).where(among(SERIALIZED.c.dag_version_id, "versions", dialect))


async def load_hashes(session: AsyncSession, versions: Sequence[UUID]) -> dict[UUID, str]:
    """Return the hashes by version. Locks nothing."""
    rows = await session.execute(hashes(dialect_of(session)), {"versions": list(versions)})
    return {row.dag_version_id: row.dag_hash for row in rows}


async def load_serialized(session: AsyncSession, versions: Sequence[UUID]) -> list[SerializedDagModel]:
    """Return the serialized forms, those that exist. Locks nothing."""
    rows = await session.scalars(serialized(dialect_of(session)), {"versions": list(versions)})
    return list(rows.all())
