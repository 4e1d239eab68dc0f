"""Statements that run past the session, on its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Executable
    from sqlalchemy.ext.asyncio import AsyncSession


async def run_on_connection(
    session: AsyncSession,
    statement: Executable,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> None:
    """Run *statement* in the session's transaction, without what the ORM does about bulk statements.

    By ``run_sync``: ``AsyncSession.connection`` would insist on an async driver, and the session may stand
    for a caller's own, with a blocking one.
    """
    await session.run_sync(lambda sync: sync.connection().execute(statement, parameters))
