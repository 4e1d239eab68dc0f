"""What the scheduler needs of the secrets package, in one object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_scheduler.database.engine import create_engine
from async_scheduler.database.sessions import new_session
from async_scheduler.secrets.assembly import make_chain
from async_scheduler.secrets.deadlines import DeadlineVariables
from async_scheduler.secrets.upstream import lookups_routed

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from async_scheduler.secrets.upstream import RoutedBackend
    from async_scheduler.settings import Settings


class SchedulerSecrets:
    """The scheduler's chain, with one database connection of its own. Made on the event loop.

    A connection of its own, because a look-up that a routine did not see coming happens while that routine
    holds one: taken from the same pool, routines could end up waiting for each other. It is opened by the
    first look-up in the metastore.
    """

    def __init__(self, settings: Settings) -> None:
        self._engine = create_engine(
            1, settings.pool_timeout, pgbouncer=settings.pgbouncer == "true", reads_only=True
        )
        self.chain = make_chain(settings, lambda: new_session(self._engine))
        self._deadlines = DeadlineVariables(self.chain, lambda: new_session(self._engine))

    def in_use(self) -> AbstractAsyncContextManager[RoutedBackend]:
        """Return the block in which the look-ups of Airflow's code go through the chain.

        Entering it raises ``AirflowConfigException`` if a ``*_secret`` option cannot be looked up.
        """
        return lookups_routed(self.chain)

    def for_new_runs(self) -> AbstractAsyncContextManager[None]:
        """Return the block in which dag runs are created; enter it before the transaction begins."""
        return self._deadlines.loaded()

    async def aclose(self) -> None:
        """Let go of the connection, and of what the backends hold."""
        await self.chain.aclose()
        await self._engine.dispose()
