"""Notifies listener plugins after the commit, on a thread of their own.

Listeners are user code that may block or query the database; Airflow calls them in the middle of a
scheduling transaction. Here a call made inside a routine's transaction is kept until that has committed
and is then made in the listeners' thread, in order, with the same arguments: mapped objects are copies
attached to that thread's session, so that a listener can follow their relations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect as sa_inspect
from sqlalchemy.exc import SQLAlchemyError

from async_scheduler.bridge.threads import PurposeThread
from async_scheduler.database.transaction import after_commit, current_session

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

HookCall = Callable[..., Any]


class ListenerThread:
    """Runs the hook calls of committed transactions, oldest first."""

    def __init__(self) -> None:
        self._thread = PurposeThread("listeners")

    def notify(self, call: HookCall, name: str, impls: Any, kwargs: dict[str, Any], first: bool) -> None:
        """Queue a hook call; errors of listeners are logged, as Airflow's callers do."""
        self._thread.submit(_notify, call, name, impls, kwargs, first)

    async def drain(self) -> None:
        """Wait until every call queued so far has been made."""
        await self._thread.drain()

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.close()


def _notify(call: HookCall, name: str, impls: Any, kwargs: dict[str, Any], first: bool) -> None:
    from airflow.utils.session import create_session

    try:
        with create_session() as session:
            call(name, impls, {key: _attached(value, session) for key, value in kwargs.items()}, first)
    # Listeners are plugins: whatever they raise must not reach the scheduler.
    except Exception:
        log.exception("error calling listener")


def _attached(value: Any, session: Session) -> Any:
    """Return a copy of the mapped object *value* that belongs to *session*; anything else as it is."""
    state = sa_inspect(value, raiseerr=False)
    if not getattr(state, "is_instance", False) or not state.has_identity:
        return value
    try:
        copy = session.merge(value, load=False)
    except SQLAlchemyError:
        return value  # changed again meanwhile: the listener gets the detached original
    for name, attribute in vars(value).items():
        if name not in state.mapper.attrs and name != "_sa_instance_state":
            setattr(copy, name, attribute)  # for example dag_run.dag, ti.task
    return copy


@contextmanager
def listeners_after_commit(thread: ListenerThread) -> Iterator[None]:
    """Route hook calls made inside a routine's transaction through *thread* while the block runs.

    Wraps pluggy's innermost call the way its own ``add_hookcall_monitoring`` does.
    """
    from airflow.listeners.listener import get_listener_manager

    manager = get_listener_manager().pm
    original: HookCall = manager._inner_hookexec

    def routed(name: str, impls: Any, kwargs: dict[str, Any], first: bool) -> Any:
        if not impls or current_session() is None:
            return original(name, impls, kwargs, first)
        arguments = dict(kwargs)
        after_commit(lambda: thread.notify(original, name, impls, arguments, first))
        return []

    manager._inner_hookexec = routed
    try:
        yield
    finally:
        manager._inner_hookexec = original
