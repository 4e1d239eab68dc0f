"""Builds the async engine from Airflow's own configuration and hooks."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from async_scheduler.database.address import AsyncAddress, async_address
from async_scheduler.database.connections import prepare_connections

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

APPLICATION_NAME = "airflow async scheduler"

_engines: WeakSet[AsyncEngine] = WeakSet()
_inherited: list[Any] = []


def create_engine(
    pool_size: int, pool_timeout: float, *, pgbouncer: bool = False, reads_only: bool = False
) -> AsyncEngine:
    """Return an async engine for Airflow's metadata database with at most *pool_size* connections.

    The URL and connect arguments are Airflow's (``[database] sql_alchemy_conn_async`` or the one inferred
    from ``sql_alchemy_conn``; ``sql_alchemy_connect_args_async``), translated for the driver; the engine is
    made by Airflow's own hook (``settings.create_async_metadata_engine``). What Airflow's async engine lacks
    next to its sync one is added: READ COMMITTED on MySQL and the page size of multi-row inserts.

    :param pgbouncer: nothing may be prepared by name, because each transaction may meet another server.
    :param reads_only: the engine never writes, so on SQLite it need not wait for those that do.
    :raises UnsupportedConnection: when the driver cannot connect in the way that is asked for.
    """
    from airflow import settings

    address = async_address()
    engine: AsyncEngine = settings.create_async_metadata_engine(
        address.url.render_as_string(hide_password=False),
        connect_args=_connect_args(address, pgbouncer),
        engine_args=_engine_args(address.url.get_backend_name(), pool_size, pool_timeout),
    )
    prepare_connections(engine, address, reads_only=reads_only)
    _engines.add(engine)
    return engine


def _connect_args(address: AsyncAddress, pgbouncer: bool) -> dict[str, Any]:
    args, driver = dict(address.connect_args), address.url.get_driver_name()
    if driver == "asyncpg":
        from async_scheduler.database.asyncpg_types import Connection

        args.setdefault("connection_class", Connection)
        if not address.names_application:
            settings = {"application_name": APPLICATION_NAME, **args.get("server_settings", {})}
            args["server_settings"] = settings
        if pgbouncer:
            # Without its caches, asyncpg and its dialect send each statement unnamed, text and all.
            args |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    elif driver == "psycopg":
        if not address.names_application:
            args["application_name"] = APPLICATION_NAME
        if pgbouncer:
            args["prepare_threshold"] = None
    return args


def _engine_args(backend: str, pool_size: int, pool_timeout: float) -> dict[str, Any]:
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
        # Errors are logged with their statement; its values may be run configurations and callback arguments.
        "hide_parameters": True,
    }
    if backend == "postgresql":
        args["insertmanyvalues_page_size"] = 10_000
    elif backend in ("mysql", "mariadb"):
        args["isolation_level"] = "READ COMMITTED"
    return args


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
