"""Whether processes have ended."""

from __future__ import annotations

from collections.abc import Sequence

import psutil


def still_running(processes: Sequence[psutil.Process], seconds: float = 120) -> list[psutil.Process]:
    """Return those of *processes* that have not ended within *seconds*.

    One that is dead but not collected has ended: in a container process 1 may never collect it.
    """
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if not _is_zombie(process)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
