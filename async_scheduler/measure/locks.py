"""Locks inside the process that can say who holds them and who waits, as the database's locks can."""

from __future__ import annotations

import asyncio
from typing import Literal

from async_scheduler.measure import attribution, registry
from async_scheduler.measure.events import LockObject
from async_scheduler.measure.ledger import Call


class NamedLock(asyncio.Lock):
    """A fair :class:`asyncio.Lock` with a name, its holder known, its waits recorded while tracing is on."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.holder: registry.Holder | None = None

    async def acquire(self) -> Literal[True]:
        if registry.observer is None or not (self.locked() or self._waiters):
            await super().acquire()
        else:
            await self._acquire_observed(registry.observer)
        self.holder = registry.Holder.here()
        return True

    async def _acquire_observed(self, observer: registry.Observer) -> None:
        call = Call(attribution.current())
        wait = registry.Wait.here("asyncio_lock", LockObject(key=self.name), self._holders)
        observer.began(wait)
        outcome: Literal["acquired", "cancelled"] = "cancelled"
        try:
            await super().acquire()
            outcome = "acquired"
        finally:
            if call.activity is not None:
                call.activity.lock_ns += call.took().net
            observer.ended(wait, outcome)

    def _holders(self) -> list[registry.Holder]:
        return [self.holder] if self.holder is not None else []

    def release(self) -> None:
        self.holder = None
        super().release()
