"""What the decision about one run needs to know beside the states of its task instances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(slots=True)
class RunFacts:
    """Facts read with the run; positions are those of its :class:`~async_scheduler.decide.board.Board`.

    ``waiting`` holds, by position, when a retry or a reschedule falls due, for those still early at the
    time of the decision. ``blocked_by_past`` are the tasks that the previous run holds back. ``skips`` are
    the values of the ``skipmixin_key`` XComs by (task, map index) of the task that pushed them. ``lengths``
    are, by task, the lengths of what plain tasks returned, ``returned`` how many values mapped ones did.
    """

    waiting: Mapping[int, datetime] = field(default_factory=dict)
    blocked_by_past: frozenset[int] = frozenset()
    skips: Mapping[tuple[int, int], Any] = field(default_factory=dict)
    lengths: Mapping[int, int] = field(default_factory=dict)
    returned: Mapping[int, int] = field(default_factory=dict)


NO_FACTS = RunFacts()
