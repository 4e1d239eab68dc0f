"""Builds the async engine from Airflow's own configuration and hooks."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

APPLICATION_NAME = "airflow async scheduler"

_engines: WeakSet[AsyncEngine] = WeakSet()
_inherited: list[Any] = []


def create_engine(pool_size: int, pool_timeout: float) -> AsyncEngine:
    """Return an async engine for Airflow's metadata database with at most *pool_size* connections.

    The URL and connect arguments are Airflow's (``[database] sql_alchemy_conn_async`` or the one inferred
    from ``sql_alchemy_conn``; ``sql_alchemy_connect_args_async``), the engine is made by Airflow's own
    hook (``settings.create_async_metadata_engine``). What Airflow's async engine lacks next to its sync one
    is added: READ COMMITTED on MySQL and the page size of multi-row inserts.
    """
    from airflow import settings

    url = settings.SQL_ALCHEMY_CONN_ASYNC
    engine: AsyncEngine = settings.create_async_metadata_engine(
        url,
        connect_args=_connect_args(url),
        engine_args=_engine_args(url, pool_size, pool_timeout),
    )
    if make_url(url).get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _configure_sqlite)
    _engines.add(engine)
    return engine


def _connect_args(url: str) -> dict[str, Any]:
    from airflow.configuration import conf

    args: dict[str, Any] = {}
    if conf.has_option("database", "sql_alchemy_connect_args_async"):
        args.update(conf.getimport("database", "sql_alchemy_connect_args_async"))
    if make_url(url).get_driver_name() == "asyncpg":
        args.setdefault("server_settings", {}).setdefault("application_name", APPLICATION_NAME)
    elif make_url(url).get_driver_name() == "psycopg":
        args.setdefault("application_name", APPLICATION_NAME)
    return args


def _engine_args(url: str, pool_size: int, pool_timeout: float) -> dict[str, Any]:
    from airflow.configuration import conf

    args: dict[str, Any] = {
        "pool_size": pool_size,
        # A hard cap: an operator can count on it. A routine that finds no connection waits.
        "max_overflow": 0,
        "pool_timeout": pool_timeout,
        # The connection used last comes first: a driver prepares each statement once per connection, so few
        # warm ones save round trips.
        "pool_use_lifo": True,
        "pool_recycle": conf.getint("database", "sql_alchemy_pool_recycle", fallback=1800),
        # No ping at check-out, which costs a round trip: a routine that meets a dead connection is
        # retried by its driver, on a new one.
        "pool_pre_ping": False,
    }
    backend = make_url(url).get_backend_name()
    if backend == "postgresql":
        args["insertmanyvalues_page_size"] = 10_000
    elif backend == "mysql":
        args["isolation_level"] = "READ COMMITTED"
    return args


def _configure_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _forget_in_forked_child() -> None:
    """Keep a forked worker from the parent's connections and from the loop's signal pipe.

    LocalExecutor forks its workers before the loop starts, but forks again when one has died.
    """
    if not _engines:
        return
    for engine in _engines:
        # Kept from the garbage collector: a driver that collects an idle connection says goodbye on the
        # socket, which is the parent's too.
        _inherited.append(engine.sync_engine.pool)
        engine.sync_engine.dispose(close=False)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        # A worker finishes its task when the scheduler's process group is told to stop. A handler that
        # does nothing, rather than SIG_IGN, which the programs that tasks start would inherit.
        signal.signal(number, lambda _number, _frame: None)


os.register_at_fork(after_in_child=_forget_in_forked_child)
