"""One look-up for all who ask for the same key at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Flight(Generic[V]):
    """A look-up under way. Its representation never shows the outcome."""

    __slots__ = ("error", "landed", "result")

    def __init__(self) -> None:
        self.landed = asyncio.Event()
        self.result: list[V] = []  # empty: the leader was cancelled, or failed with ``error``
        self.error: Exception | None = None


class SingleFlight(Generic[K, V]):
    """Shares a look-up among the tasks of one event loop that want the same key.

    The first to ask does the work in its own task and the others wait for it, so nothing runs in the
    background. When that task is cancelled the next of them takes over with its own look-up: a cancelled
    caller takes nobody with it.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def share(self, key: K, look_up: Callable[[], Awaitable[V]]) -> V:
        """Return what *look_up* returned for one of the callers with this *key*, or raise what it raised."""
        while (flight := self._flights.get(key)) is not None:
            await flight.landed.wait()
            if flight.error is not None:
                raise flight.error
            if flight.result:
                return flight.result[0]
        return await self._lead(key, look_up)

    async def _lead(self, key: K, look_up: Callable[[], Awaitable[V]]) -> V:
        flight = self._flights[key] = _Flight()
        try:
            result = await look_up()
        except Exception as error:
            flight.error = error
            raise
        else:
            flight.result.append(result)
            return result
        finally:
            del self._flights[key]
            flight.landed.set()
