"""A flag that one routine waits on and others raise."""

from __future__ import annotations

import asyncio
from time import monotonic


class Wakeup:
    """Raised any number of times before a pass, it causes one pass; raised during a pass, another one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.last_raised = monotonic()

    def set(self) -> None:
        """Ask for a pass. Call on the loop's thread."""
        self.last_raised = monotonic()
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether a pass was asked for since the last :meth:`clear`."""
        return self._event.is_set()

    def clear(self) -> None:
        """Forget past requests. Call *before* the work, so that one raised during it is not lost."""
        self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait until a pass is asked for, *seconds* at most; return whether it was."""
        if self._event.is_set():
            # Even a routine that is always busy lets the others have a turn.
            await asyncio.sleep(0)
            return True
        try:
            async with asyncio.timeout(max(seconds, 0)):
                return await self._event.wait()
        except TimeoutError:
            return False
