"""Watches InnoDB's row-lock waits, as far as MySQL and MariaDB let one.

MySQL 8 shows each wait in ``performance_schema.data_lock_waits`` at any rate. MariaDB has
``information_schema.INNODB_LOCK_WAITS``, whose contents the server renews only when nobody has read them
for 100 ms: polled faster than that it shows nothing at all, so the period is never below 110 ms and only
one reader may watch a server. Starts and ends are both known to within one period: every wait from here is
*sampled*. The server's own ``Innodb_row_lock_time`` is exact in total; its growth is recorded as one
*bound* wait without parties.
"""

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from async_scheduler.measure.events import Event, LockObject, Party, StatementText, Wait
from async_scheduler.measure.postgres_sampler import root_blocker
from async_scheduler.measure.statements import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import URL

MARIADB_PERIOD = 0.11

MARIADB = text(
    """
    SELECT r.trx_mysql_thread_id AS waiter, b.trx_mysql_thread_id AS blocker, l.lock_table AS relation,
           l.lock_mode AS mode, r.trx_query AS waiter_query, b.trx_query AS blocker_query, b.trx_state AS
           state
      FROM information_schema.INNODB_LOCK_WAITS w
      JOIN information_schema.INNODB_TRX r ON r.trx_id = w.requesting_trx_id
      JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id
      LEFT JOIN information_schema.INNODB_LOCKS l ON l.lock_id = w.requested_lock_id
    """
)
MYSQL = text(
    """
    SELECT r.trx_mysql_thread_id AS waiter, b.trx_mysql_thread_id AS blocker,
           CONCAT(l.object_schema, '.', l.object_name) AS relation, l.lock_mode AS mode,
           r.trx_query AS waiter_query, b.trx_query AS blocker_query, b.trx_state AS state
      FROM performance_schema.data_lock_waits w
      JOIN information_schema.INNODB_TRX r ON r.trx_id = w.requesting_engine_transaction_id
      JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_engine_transaction_id
      LEFT JOIN performance_schema.data_locks l ON l.engine_lock_id = w.requesting_engine_lock_id
    """
)
ROW_LOCK_TIME = text("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_time'")


class Sightings:
    """Turns polls into waits: from the first poll that shows a waiter to the first that does not."""

    def __init__(self, put: Callable[[Event], None], begun: Callable[[Wait], None] | None = None) -> None:
        self._put = put
        self._begun = begun
        self._open: dict[int, Wait] = {}
        self._texts: set[str] = set()

    def see(self, rows: Sequence[Mapping[str, Any]], at: int) -> None:
        """Take one poll made at *at*."""
        blockers: dict[int, list[int]] = {}
        for row in rows:
            blockers.setdefault(int(row["waiter"]), []).append(int(row["blocker"]))
        for waiter in [w for w in self._open if w not in blockers]:
            self._put(msgspec.structs.replace(self._open.pop(waiter), t_end=at))
        for row in rows:
            waiter = int(row["waiter"])
            if waiter not in self._open:
                wait = self._open[waiter] = self._begin(row, blockers, at)
                if self._begun is not None:
                    self._begun(wait)

    def close(self, at: int) -> None:
        """Record the waits still under way as unfinished."""
        for wait in self._open.values():
            self._put(msgspec.structs.replace(wait, t_end=at, outcome="unfinished"))
        self._open.clear()

    def _begin(self, row: Mapping[str, Any], blockers: Mapping[int, list[int]], at: int) -> Wait:
        waiter = int(row["waiter"])
        root = root_blocker(waiter, {w: list(b) for w, b in blockers.items()})
        holder = self._party(int(row["blocker"]), row["blocker_query"], row["state"])
        return Wait(
            what="db_row",
            t_start=at,
            t_end=at,
            exactness="sampled",
            waiter=self._party(waiter, row["waiter_query"], "LOCK WAIT"),
            source="sampler",
            object=LockObject(relation=_table(row["relation"]), mode=row["mode"]),
            immediate_blockers=[Party(pid=b) for b in blockers[waiter]],
            root_blocker=None if root is None else holder if root == holder.pid else Party(pid=root),
        )

    def _party(self, pid: int, query: str | None, state: str | None) -> Party:
        if not query:
            return Party(pid=pid, state=state)
        statement = describe(query)
        if statement.hash not in self._texts:
            self._texts.add(statement.hash)
            self._put(StatementText(statement.hash, statement.text, statement.locks))
        return Party(pid=pid, state=state, statement=statement.hash)


def _table(quoted: str | None) -> str | None:
    """Return the bare table of InnoDB's ```schema`.`table```."""
    return quoted.replace("`", "").rsplit(".", 1)[-1] if quoted else None


async def sample(
    url: URL,
    put: Callable[[Event], None],
    *,
    period: float,
    ready: Callable[[], None] = lambda: None,
    begun: Callable[[Wait], None] | None = None,
) -> None:
    """Record the row-lock waits of the server of *url* until cancelled."""
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=0)
    sightings = Sightings(put, begun)
    try:
        async with engine.connect() as connection:
            mariadb = getattr(connection.dialect, "is_mariadb", False)
            statement = MARIADB if mariadb else MYSQL
            started, total = monotonic_ns(), await _row_lock_ms(connection)
            ready()
            try:
                while True:
                    rows = (await connection.execute(statement)).mappings().all()
                    sightings.see([dict(row) for row in rows], monotonic_ns())
                    await asyncio.sleep(max(period, MARIADB_PERIOD) if mariadb else period)
            finally:
                sightings.close(monotonic_ns())
                put(_total(started, await asyncio.shield(_row_lock_ms(connection)) - total))
    finally:
        await engine.dispose()


async def _row_lock_ms(connection: Any) -> int:
    row = (await connection.execute(ROW_LOCK_TIME)).one()
    return int(row[1])


def _total(start: int, milliseconds: int) -> Wait:
    """Return the exact sum of row-lock waits of the whole server, as one record without parties."""
    return Wait(
        what="db_row",
        t_start=start,
        t_end=start + milliseconds * 1_000_000,
        exactness="bound",
        waiter=Party(process="server"),
        source="server-total",
    )
