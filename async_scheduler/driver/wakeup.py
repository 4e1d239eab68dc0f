"""A flag that one routine waits on and others raise."""

from __future__ import annotations

import asyncio
from time import monotonic


class Wakeup:
    """Raised any number of times before a pass, it causes one pass; raised during a pass, another one."""

    def __init__(self) -> None:
        self._asked = False
        self._waiter: asyncio.Future[None] | None = None
        self.last_raised = monotonic()

    def set(self) -> None:
        """Ask for a pass. Call on the loop's thread."""
        self.last_raised = monotonic()
        self._asked = True
        _wake(self._waiter)

    @property
    def is_set(self) -> bool:
        """Whether a pass was asked for since the last :meth:`clear`."""
        return self._asked

    def clear(self) -> None:
        """Forget past requests. Call *before* the work, so that one raised during it is not lost."""
        self._asked = False

    async def wait(self, seconds: float) -> bool:
        """Wait until a pass is asked for, *seconds* at most; return whether it was. One waiter at a time.

        A timer of its own ends the wait: ``asyncio.timeout`` would cancel the task and catch that again, a
        tenth of all that an idle scheduler does.
        """
        if self._asked or seconds <= 0:
            # Even a routine that is always busy lets the others have a turn.
            await asyncio.sleep(0)
            return self._asked
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self._asked


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
