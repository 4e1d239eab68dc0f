"""What every task and thread of this process is doing, as text."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from io import StringIO


def describe_tasks() -> Iterator[str]:
    """Yield one text per asyncio task: its name, and where it waits. Call on the loop's thread."""
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        text = StringIO()
        task.print_stack(limit=12, file=text)
        yield f"Task {task.get_name()}:\n{text.getvalue()}"


def describe_threads() -> Iterator[str]:
    """Yield one text per thread: its name, and its stack."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame, limit=12))
        yield f"Thread {names.get(ident, ident)}:\n{stack}"
