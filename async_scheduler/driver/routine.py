"""What a routine is, and what one pass of it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did.

    ``counts`` – things done, by name, for metrics; ``progressed`` – followers have something new to look
    at; ``more`` – there is more to do at once, so the routine runs again without waiting; ``due_in`` –
    seconds until it should look again, where that differs from its interval; ``wakes`` – the followers to
    wake, where they differ from those of its schedule; ``precaution`` – followers are to look
    although nothing is known to be new, which makes no idle scheduler a busy one.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    progressed: bool = False
    more: bool = False
    due_in: float | None = None
    wakes: tuple[str, ...] | None = None
    precaution: bool = False


NOTHING = Outcome()


class Routine(Protocol):
    """One kind of work of the scheduler."""

    @property
    def name(self) -> str:
        """The name in logs, metrics and traces."""

    async def run_once(self) -> Outcome:
        """Do one pass, in transactions of its own, and report it."""


@runtime_checkable
class Resting(Protocol):
    """A routine that has a use for the time between two passes."""

    def rest(self, seconds: float) -> float:
        """Begin to rest, for *seconds* if nobody wakes it; return for how long it may be left alone."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a routine runs: on wake-ups and every ``interval`` seconds, first after ``first_after``.

    ``jitter`` is the share of the interval by which each wait varies, so that routines and schedulers do
    not march in step. ``core`` routines make up a round, the unit of ``--num-runs``. ``non_fatal``: an error
    that a retry cannot mend is logged instead of ending the scheduler. ``wakes``: the routines to wake when a
    pass made progress. ``woken_as``: the name under which it is woken, its own if empty; where several
    routines go by one name, the first that is not at work already is woken. ``longest``: no wait is longer,
    whatever a pass reports, for example where rounds are counted and each waits for all routines.
    """

    interval: float
    first_after: float = 0.0
    jitter: float = 0.1
    core: bool = False
    non_fatal: bool = False
    wakes: tuple[str, ...] = ()
    woken_as: str = ""
    longest: float = inf
