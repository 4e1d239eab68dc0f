"""Keeps a burst of answers from holding the event loop.

To make a connection takes Airflow some 0.2 ms of CPU. When sixty answers come in at once, that is one turn of
the event loop of 12 ms in which nobody else runs. :func:`own_turn` spreads such work, one piece for each turn
of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary


class _Turns:
    """Who is next on one event loop."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        loop = asyncio.get_running_loop()
        if self._taken:
            mine = loop.create_future()
            self._waiting.append(mine)
            await mine
        else:
            self._taken = True
            loop.call_soon(self._pass_on, loop)

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the next one work; runs once in each turn of the loop while someone waits."""
        while self._waiting:
            following = self._waiting.popleft()
            if not following.done():  # done: it was cancelled meanwhile
                following.set_result(None)
                loop.call_soon(self._pass_on, loop)
                return
        self._taken = False


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


async def own_turn() -> None:
    """Return when this turn of the event loop is the caller's: at once if nobody else has it, else in order.

    Await it just before a short piece of CPU work. Whoever comes alone is not delayed.
    """
    loop = asyncio.get_running_loop()
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = _Turns()
    await turns.take()
