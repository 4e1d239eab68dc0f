"""Connections and variables from Airflow's metadata database, over an async session.

Look-ups that come together become one statement in autocommit mode: one round trip where the sync backend
takes a ping, BEGIN, SELECT and COMMIT for each, and one database connection however many tasks ask.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.secrets.metastore import MetastoreBackend

from async_scheduler.secrets.backend import AsyncSecretsBackend
from async_scheduler.secrets.batches import Batches
from async_scheduler.secrets.turns import own_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncSession

    SessionFactory = Callable[[], AsyncSession]

BATCH_SIZE = 256


class AsyncMetastoreBackend(MetastoreBackend, AsyncSecretsBackend):  # type: ignore[misc]
    """Airflow's metastore backend with awaitable look-ups. Belongs to one event loop.

    A row is visible if it has no team or that of the caller. Values are decrypted by Airflow's own models,
    so keys, key rotation and what happens with a wrong key are Airflow's: a connection raises
    ``cryptography.fernet.InvalidToken``, a variable is logged and counts as absent.
    """

    def __init__(self, sessions: SessionFactory | None = None) -> None:
        """Open sessions with *sessions*; by default on Airflow's own async engine."""
        super().__init__()
        self._sessions = sessions or _airflow_session
        self._connections: Batches[Row[Any]] = Batches(partial(self._rows, "Connection"), BATCH_SIZE)
        self._variables: Batches[Row[Any]] = Batches(partial(self._rows, "Variable"), BATCH_SIZE)

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Return the connection as Airflow's ORM object, bound to no session, or None."""
        from airflow.models import Connection

        row = await self._connections.get(conn_id)
        await own_turn()
        return _instance(Connection, row, team_name)

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the variable's decrypted text, or None."""
        from airflow.models import Variable

        row = await self._variables.get(key)
        await own_turn()
        variable = _instance(Variable, row, team_name)
        value: str | None = None if variable is None else variable.val
        return value

    async def _rows(self, model_name: str, keys: Sequence[str]) -> Mapping[str, Row[Any]]:
        """Return the rows of *keys* whatever their team; takes no lock."""
        from airflow import models

        model = getattr(models, model_name)
        id_column = model.conn_id if model_name == "Connection" else model.key
        async with self._sessions() as session:
            connection = await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            if connection.dialect.name == "mysql":
                return await _rows_one_by_one(session, model, id_column, keys)
            rows = await session.execute(_select(model).where(id_column.in_(_padded(keys))))
            return {row._mapping[id_column]: row for row in rows}


async def _rows_one_by_one(
    session: AsyncSession, model: Any, id_column: Any, keys: Sequence[str]
) -> Mapping[str, Row[Any]]:
    """Return the rows of *keys* as MySQL compares them: it may ignore case, so a row's key can differ."""
    found = {}
    for key in keys:
        row = (await session.execute(_select(model).where(id_column == key).limit(1))).first()
        if row is not None:
            found[key] = row
    return found


def _select(model: Any) -> Any:
    from sqlalchemy import select

    return select(*(getattr(model, attribute.key) for attribute in model.__mapper__.column_attrs))


def _padded(keys: Sequence[str]) -> list[str]:
    """Return *keys*, the last repeated up to a power of two: few texts, so prepared statements are reused."""
    size = 1 << (len(keys) - 1).bit_length()
    return [*keys, *[keys[-1]] * (size - len(keys))]


def _instance(model: Any, row: Row[Any] | None, team_name: str | None) -> Any | None:
    """Return *row* as an object of *model*, loaded as the ORM loads one, if *team_name* may see it.

    Outside the ORM's loading so that one row that cannot be decrypted fails its own look-up only.
    """
    if row is None or row.team_name not in (None, team_name):
        return None
    instance = model.__mapper__.class_manager.new_instance()
    keys = (attribute.key for attribute in model.__mapper__.column_attrs)
    vars(instance).update(zip(keys, row, strict=True))
    instance.on_db_load()
    return instance


def _airflow_session() -> AsyncSession:
    from airflow import settings

    session: AsyncSession = settings.AsyncSession()
    return session
