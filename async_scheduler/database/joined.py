"""Makes Airflow's nested ``provide_session`` calls join the transaction of the routine they run in.

Airflow's functions open a session of their own when none is passed. Called from a routine that would be
a blocking connection on the event loop; in the sync scheduler it is even the caller's own session,
which the nested call then commits and closes. Here a nested session works on the caller's connection
inside a savepoint: its commit releases the savepoint, its rollback returns to it, and the caller's
objects, locks and transaction stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session, scoped_session

from async_scheduler.database.transaction import current_session


def join(outer: Session) -> Session:
    """Return a session on *outer*'s connection whose commit and rollback end at a savepoint.

    What *outer* has not flushed is flushed first: in the sync scheduler the nested call would see it, as it
    gets the same session.
    """
    if not outer._flushing:
        outer.flush()
    return Session(
        bind=outer.connection(),
        join_transaction_mode="create_savepoint",
        autoflush=False,
        expire_on_commit=False,
    )


class RoutedSessions:
    """Stands in for ``airflow.settings.Session``: joined sessions in routines, the thread's own elsewhere."""

    def __init__(self, scoped: scoped_session[Session]) -> None:
        self._scoped = scoped

    def __call__(self, **options: Any) -> Session:
        """Return the session for the caller."""
        outer = current_session()
        return self._scoped(**options) if outer is None else join(outer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scoped, name)


@contextmanager
def nested_sessions_joined() -> Iterator[None]:
    """Route ``airflow.settings.Session`` through :class:`RoutedSessions` while the block runs."""
    from airflow import settings

    original, original_plain = settings.Session, settings.NonScopedSession
    settings.Session = RoutedSessions(original)
    settings.NonScopedSession = RoutedSessions(original_plain)
    try:
        yield
    finally:
        settings.Session, settings.NonScopedSession = original, original_plain


@contextmanager
def retries_left_to_the_driver() -> Iterator[None]:
    """Make Airflow's ``run_with_db_retries`` try once inside a routine's transaction while the block runs.

    Its retries sleep, which would stop the event loop, and go on without the row locks that the rollback
    gave up (#72873). The routine's driver tries the whole pass again instead.
    """
    from airflow.jobs import scheduler_job_runner
    from airflow.utils import retries

    original: Callable[..., Any] = retries.run_with_db_retries

    def once_in_a_routine(*args: Any, **kwargs: Any) -> Any:
        if current_session() is None:
            return original(*args, **kwargs)
        logger = kwargs.get("logger", args[1] if len(args) > 1 else None)
        return original(max_retries=1, logger=logger)

    modules = (retries, scheduler_job_runner)
    for module in modules:
        module.run_with_db_retries = once_in_a_routine
    try:
        yield
    finally:
        for module in modules:
            module.run_with_db_retries = original
