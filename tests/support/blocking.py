"""Fails a test whose code blocks the event loop: files, sockets, sleeps, and any sync database call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow import settings
from blockbuster import BlockBuster, BlockingError
from sqlalchemy import event
from sqlalchemy.orm import configure_mappers


@contextmanager
def nothing_blocks() -> Iterator[None]:
    """Raise ``BlockingError`` for a blocking call on a thread that runs an event loop."""
    # The first ORM object imports and maps all models; a scheduler does that before its loop starts.
    configure_mappers()
    guard = BlockBuster()
    # asyncpg looks for ~/.pgpass each time it connects without a password.
    for call in ("os.stat", "io.BufferedReader.read", "io.TextIOWrapper.read"):
        guard.functions[call].can_block_in("asyncpg/connect_utils.py", "_read_password_file")
    guard.activate()
    # psycopg2 waits in C, where blockbuster does not see it.
    event.listen(settings.engine, "before_cursor_execute", _refuse_on_loop)
    try:
        yield
    finally:
        event.remove(settings.engine, "before_cursor_execute", _refuse_on_loop)
        guard.deactivate()


def _refuse_on_loop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BlockingError(f"sync database call: {statement[:200]}")
