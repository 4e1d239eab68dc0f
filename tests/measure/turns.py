"""Waiting without sleeping: turns of the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def next_turn() -> None:
    """Let everything that is ready run once."""
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until *condition* holds."""
    async with asyncio.timeout(300):
        while not condition():
            await next_turn()
