"""Waits for what another process does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

PATIENCE = 300.0
"""Seconds after which what has not come about counts as never coming: far more than it ever takes."""


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as *condition* holds; fail when it does not for a long time."""
    pause = threading.Event()
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, "waited too long"
        pause.wait(0.05)
