"""Wraps an engine's dialect and pool so that the ledger sees every checkout, statement and commit.

The wrappers are attributes of the dialect's and the pool's own instances, which hide the class's methods;
removing them restores the class's. Nothing is wrapped in an engine that is not traced. They cost about a
third of what SQLAlchemy's cursor events cost, and what is called through them is called exactly once, with
the same arguments and the same exceptions.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.pool import PoolProxiedConnection

from async_scheduler.measure import attribution, registry
from async_scheduler.measure.events import LockObject, Outcome
from async_scheduler.measure.ledger import Call, Checkout, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

    from async_scheduler.measure.statements import Statement


def driver_connection(cursor: Any) -> Any:
    """Return the connection, as SQLAlchemy knows it, behind a cursor of any driver."""
    adapted = getattr(cursor, "_adapt_connection", None)
    return adapted if adapted is not None else getattr(cursor, "connection", None)


def backend_pid(connection: Any) -> int:
    """Return the server's process (PostgreSQL) or thread (MySQL) id of a connection, 0 where there is none.

    Needs no round trip with any of the drivers.
    """
    raw = getattr(connection, "driver_connection", connection)
    for name in ("get_server_pid", "get_backend_pid", "thread_id"):
        ask = getattr(raw, name, None)
        if callable(ask):
            return int(ask())
    return int(getattr(getattr(raw, "info", None), "backend_pid", 0) or 0)


class EngineWrappers:
    """The wrappers of one engine."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine = engine
        self._ledger = ledger
        self._times: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        self._undo: list[Callable[[], None]] = []
        self._pool: Any = None

    def install(self) -> None:
        """Wrap the engine. Connections already checked out are seen from their next checkout on."""
        dialect = self._engine.dialect
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            self._replace(dialect, name, self._execute(getattr(dialect, name), dialect))
        self._replace(dialect, "do_commit", self._finish(dialect.do_commit, "commit"))
        self._replace(dialect, "do_rollback", self._finish(dialect.do_rollback, "rollback"))
        self._replace(dialect, "connect", self._connect(dialect.connect))
        self._replace(dialect, "do_ping", self._ping(dialect.do_ping))
        self._wrap_pool()
        event.listen(self._engine, "engine_disposed", self._disposed)

    def uninstall(self) -> None:
        """Take every wrapper away."""
        event.remove(self._engine, "engine_disposed", self._disposed)
        self._unwrap_pool()
        while self._undo:
            self._undo.pop()()
        for connection in self._taken.values():
            self._ledger.checkouts.pop(connection, None)
        self._taken.clear()

    def _replace(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        owner.__dict__[name] = wrapper
        self._undo.append(lambda: owner.__dict__.pop(name, None))

    def _disposed(self, engine: Engine) -> None:
        """A disposed engine gets a new pool."""
        self._unwrap_pool()
        self._wrap_pool()

    def _wrap_pool(self) -> None:
        pool: Any = self._engine.pool
        self._pool = pool
        pool.__dict__["connect"] = self._checkout(pool.connect)
        pool.__dict__["_do_return_conn"] = self._give_back(pool._do_return_conn)

    def _unwrap_pool(self) -> None:
        for name in ("connect", "_do_return_conn"):
            self._pool.__dict__.pop(name, None)

    def _execute(self, original: Callable[..., Any], dialect: Any) -> Callable[..., Any]:
        ledger = self._ledger
        many = original.__name__ == "do_executemany"

        def execute(cursor: Any, text: str, *arguments: Any, **options: Any) -> Any:
            connection = driver_connection(cursor)
            checkout = ledger.checkouts.get(id(connection))
            if checkout is None:
                return original(cursor, text, *arguments, **options)
            context = options.get("context", arguments[-1] if arguments else None)
            statement = ledger.find(text, context)
            call = ledger.began(checkout, statement)
            try:
                result = original(cursor, text, *arguments, **options)
            except BaseException as error:
                ledger.returned(checkout, statement, call, -1, None, error)
                raise
            rows = -1 if many else cursor.rowcount
            ledger.returned(checkout, statement, call, rows, _wanted(statement, context), None)
            if statement.tries and _refused(cursor):
                ledger.failed(checkout, statement, "nowait_fail", call.start, monotonic_ns())
            if _commits_itself(connection):
                ledger.ended(checkout, Call(attribution.current()), "commit")
            return result

        return execute

    def _finish(self, original: Callable[..., Any], outcome: Outcome) -> Callable[..., Any]:
        ledger = self._ledger

        def finish(connection: Any) -> Any:
            raw = connection.dbapi_connection if isinstance(connection, PoolProxiedConnection) else connection
            checkout = ledger.checkouts.get(id(raw))
            if checkout is None or checkout.transaction is None:
                return original(connection)
            call = Call(attribution.current())
            try:
                result = original(connection)
            except BaseException:
                ledger.ended(checkout, call, "error")
                raise
            ledger.ended(checkout, call, outcome)
            return result

        return finish

    def _connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(*arguments: Any, **options: Any) -> Any:
            start = monotonic_ns()
            connection = original(*arguments, **options)
            self._times[id(connection)] = monotonic_ns() - start
            return connection

        return connect

    def _ping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def ping(connection: Any) -> Any:
            start = monotonic_ns()
            try:
                return original(connection)
            finally:
                self._times[id(connection)] = self._times.get(id(connection), 0) + monotonic_ns() - start

        return ping

    def _checkout(self, original: Callable[..., Any]) -> Callable[..., Any]:
        ledger = self._ledger

        def connect() -> Any:
            activity = attribution.current()
            wait = self._waiting()
            call = Call(activity)
            outcome: Outcome = "failed"
            try:
                fairy = original()
                outcome = "acquired"
            finally:
                if wait is not None and registry.observer is not None:
                    registry.observer.ended(wait, outcome)
            spent = call.took().net
            raw = fairy.dbapi_connection
            other = min(spent, self._times.pop(id(raw), 0))
            if wait is None:  # there was a free place: opening and setting up a connection is no wait for one
                other = spent
            if activity is not None:
                activity.connect_ns += other
                activity.pool_ns += spent - other
            ledger.checkouts[id(raw)] = Checkout(backend_pid(raw), spent - other)
            self._taken[id(fairy._connection_record)] = id(raw)
            return fairy

        return connect

    def _waiting(self) -> registry.Wait | None:
        """Announce a wait for the pool when it has nothing left to give."""
        observer = registry.observer
        if observer is None or not _exhausted(self._pool):
            return None
        wait = registry.Wait.here("pool", LockObject(key="connection pool"), self._holders)
        observer.began(wait)
        return wait

    def _holders(self) -> list[registry.Holder]:
        return [checkout.holder for checkout in self._ledger.checkouts.values()]

    def _give_back(self, original: Callable[..., Any]) -> Callable[..., Any]:
        ledger = self._ledger

        def give_back(record: Any) -> Any:
            # an invalidated record has lost its connection by now, so it is found by its own identity
            checkout = ledger.checkouts.pop(self._taken.pop(id(record), 0), None)
            if checkout is not None and checkout.transaction is not None:
                ledger.ended(checkout, Call(attribution.current()), "rollback")
            return original(record)

        return give_back


def _commits_itself(connection: Any) -> bool:
    """Whether each statement of a driver's connection is a transaction of its own."""
    return getattr(connection, "autocommit", False) is True


def _wanted(statement: Statement, context: Any | None) -> int | None:
    if statement.limit is None or context is None:
        return None
    parameters = getattr(context, "compiled_parameters", None)
    value = parameters[0].get(statement.limit) if parameters else None
    return value if isinstance(value, int) else None


def _refused(cursor: Any) -> bool:
    """Whether a try-lock's answer, still unread in an async driver's cursor, is no."""
    rows = getattr(cursor, "_rows", None)
    return rows is not None and len(rows) > 0 and rows[0][0] in (False, 0)


def _exhausted(pool: Any) -> bool:
    try:
        return bool(
            pool.checkedin() == 0 and pool._max_overflow > -1 and pool.overflow() >= pool._max_overflow
        )
    except AttributeError:
        return False
