"""Look-ups made ahead of a transaction, for sync code that will want them inside it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from async_scheduler.secrets.cache import MISS, fresh
from async_scheduler.secrets.source import Lookup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from async_scheduler.secrets.chain import AsyncSecretsChain

AT_ONCE = 64


class _Known:
    """What was looked up; hides the values from ``repr``, which shows the variables of a context."""

    __slots__ = ("values",)

    def __init__(self, values: Mapping[Lookup, Any]) -> None:
        self.values = values


_known: ContextVar[_Known | None] = ContextVar("preloaded_secrets", default=None)


@asynccontextmanager
async def preloaded(
    chain: AsyncSecretsChain,
    *,
    variables: Iterable[str] = (),
    connections: Iterable[str] = (),
    team_name: str | None = None,
) -> AsyncIterator[None]:
    """Look the given keys up now; inside the block, sync code of this task finds them without any I/O.

    It finds them through :func:`async_scheduler.secrets.upstream.lookups_routed`, with the same *team_name*.
    A key that no backend has is known to be absent. One whose look-up a backend forbids stays unknown, so the
    code that wants it meets the refusal itself. Blocks nest.
    """
    wanted = {Lookup("variable", key, team_name) for key in variables}
    wanted |= {Lookup("connection", key, team_name) for key in connections}
    found = await look_up_all(chain, wanted)
    token = _known.set(_Known({**_preloaded(), **found}))
    try:
        yield
    finally:
        _known.reset(token)


def recall(lookup: Lookup) -> Any:
    """Return what was preloaded for *lookup*, None if it is known to be absent, or :data:`MISS`."""
    value = _preloaded().get(lookup, MISS)
    return value if value is MISS else fresh(value)


def _preloaded() -> Mapping[Lookup, Any]:
    known = _known.get()
    return {} if known is None else known.values


async def look_up_all(chain: AsyncSecretsChain, wanted: Iterable[Lookup]) -> dict[Lookup, Any]:
    """Return what the chain finds for each of *wanted*, some at a time; forbidden ones are left out."""
    found: dict[Lookup, Any] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def look_up(lookup: Lookup) -> None:
        async with places:
            try:
                found[lookup] = await chain.find(lookup)
            except AirflowSecretsBackendAccessDenied:
                return

    async with asyncio.TaskGroup() as group:
        for lookup in wanted:
            group.create_task(look_up(lookup), name=f"secrets-preload-{lookup.kind}-{lookup.key}")
    return found
