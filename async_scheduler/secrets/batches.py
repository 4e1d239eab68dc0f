"""Gathers look-ups that are asked for at about the same time into few statements."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

V = TypeVar("V")

Fetch = Callable[[list[str]], Awaitable[Mapping[str, V]]]
"""Returns what there is for a list of keys; absent keys are left out."""


class _Request(Generic[V]):
    """One caller's wish. Its representation never shows the answer."""

    __slots__ = ("answer", "error", "given_up", "key", "leads", "woken")

    def __init__(self, key: str) -> None:
        self.key = key
        self.woken = asyncio.Event()
        self.leads = False
        self.given_up = False
        self.answer: V | None = None
        self.error: Exception | None = None


class Batches(Generic[V]):
    """Looks keys up in batches of at most *size*, one batch at a time, for the tasks of one event loop.

    While a batch is on its way the next one gathers, so any number of look-ups uses one connection and
    waits for at most the batch before its own. Nothing runs in the background: the first of a batch does
    the work in its own task. If that is cancelled, the others of the batch are asked for again.
    """

    def __init__(self, fetch: Fetch[V], size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._waiting: deque[_Request[V]] = deque()
        self._under_way = False

    async def get(self, key: str) -> V | None:
        """Return what there is for *key*, or None; raise what the statement raised."""
        request: _Request[V] = _Request(key)
        self._waiting.append(request)
        if self._under_way:
            await self._wait(request)
        else:
            self._under_way = request.leads = True
        if request.leads:
            await self._lead()
        if request.error is not None:
            raise request.error
        return request.answer

    async def _wait(self, request: _Request[V]) -> None:
        try:
            await request.woken.wait()
        except asyncio.CancelledError:
            request.given_up = True
            if request in self._waiting:
                self._waiting.remove(request)
            if request.leads:
                self._pass_on()
            raise

    async def _lead(self) -> None:
        """Ask for the caller's key and those that wait behind it, then let the next batch begin."""
        batch: list[_Request[V]] = []
        try:
            await asyncio.sleep(0)  # those that ask in the same turn of the event loop come along
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            found = await self._fetch([request.key for request in batch])
        except Exception as error:
            for request in batch:
                request.error = error
        except BaseException:
            if batch:
                self._waiting.extendleft(other for other in reversed(batch[1:]) if not other.given_up)
            else:
                self._waiting.popleft()
            batch = []
            raise
        else:
            for request in batch:
                request.answer = found.get(request.key)
        finally:
            for request in batch:
                request.woken.set()
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].woken.set()
        else:
            self._under_way = False
