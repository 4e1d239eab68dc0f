"""What one pass of the schedule stage did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from async_scheduler.routines.redesigned.visiting import Visited
    from async_scheduler.store.running import ClaimedRun


@dataclass(slots=True)
class Pass:
    """What came of the runs *ids*; filled while the pass goes on, believed once all of it is committed.

    Where a part fails, all runs are visited again, those too of which something was committed before.

    ``announced`` is how many of those scheduled the critical section was told of while the pass went on.
    """

    now: datetime
    ids: Sequence[int]
    visited: list[Visited] = field(default_factory=list)
    scheduled: int = 0
    finished: int = 0
    complete: bool = True
    ended: list[ClaimedRun] = field(default_factory=list)
    handed_over: list[ClaimedRun] = field(default_factory=list)
    unplanned: list[ClaimedRun] = field(default_factory=list)
    locked: list[int] = field(default_factory=list)
    put_off: list[int] = field(default_factory=list)
    held_back: set[int] = field(default_factory=set)
    announced: int = 0
    lost_race: bool = False
    lifted: int = 0
