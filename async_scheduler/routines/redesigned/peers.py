"""The other schedulers on the database, and what is left to them so that a run stays with one of them."""

from __future__ import annotations

from collections import Counter
from math import inf
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, TypeVar

from async_scheduler.store.queued import Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
    from uuid import UUID

    from async_scheduler.decide.admit import Candidate

T = TypeVar("T")

LEFT_FOR = 1.0
"""Seconds for which task instances are left to the scheduler that has their run, while it queues none."""
NOT_SPARED_FOR = 10.0
"""Seconds for which nothing is left to a scheduler that was late: it is full, busy, paused or dead."""
LOOK_EVERY, LOOK_AT_LEAST_EVERY = 0.5, 2.0
"""Seconds between two looks at what has become of what was left; a scheduler with enough to do of its own
looks less often, down to the second, the longer all others go on: each look ranks all that waits."""
LOOK_AT = 32
"""So many of what is left are looked at by a scheduler with work of its own: enough to see if any goes."""
BUSY = 16
"""A scheduler with fewer task instances of its own in a section than this helps others."""
STARTS_LEFT_FOR = 1.5
"""Seconds for which a run that may start is left to whom it is dealt: some probes, also on a slow machine."""
STARTS_LOOK_EVERY = 0.5
"""Seconds between two looks at the queued runs that are dealt to others: each locks them for a moment."""
NO_STARTS_FOR = 10.0
"""Seconds for which no new runs are dealt to a scheduler that did not start its own in time."""
ORDER_FOR = 0.5
"""Seconds for which sections ask for everybody's task instances at once, after one that had asked for its own
first and found too little for all: to ask in vain each time is most of what a section costs then."""
TAKEN_LOOK_AGAIN, TAKEN_LOOK_LATER = 0.005, 0.03
"""The shortest times, in seconds, after which a section that was found taken is tried again: at first as long
as one with little in it takes, then each time twice as long, up to the longer one."""
WAIT_IN_LINE = 0.1
"""The longest time, in seconds, for which a scheduler waits in line for a section that another is in."""
NO_LINE_FOR = 1.0
"""Seconds for which a scheduler does not wait in line after it did so in vain: sections are long, or one is
stuck, and the server logs each such end as an error."""
TAKEN_REST = 0.5
"""A section that was not waited for, or in vain, is left alone for so many times as long as the last one took
here, whoever asks: on average that much of it is still to come, and each try costs three round trips."""
TURN = 1.0
"""So many times as long as a section took, others find it free. Without such turns they keep finding it taken
and task instances wait; with longer turns they wait too."""


class Patience:
    """Remembers since when things have been left to others. No clock but this process's own counts."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self.clock = clock
        self._since: dict[Hashable, float] = {}

    def late(self, things: Iterable[T]) -> set[T]:
        """Return those of *things* that have been left for too long."""
        before = self.clock() - self._seconds
        return {one for one in things if self._since.get(one, inf) <= before}

    def leave(self, things: Iterable[Hashable]) -> None:
        """Note that *things*, and nothing else, are left now."""
        now = self.clock()
        self._since = {one: self._since.get(one, now) for one in things}

    def ends_in(self) -> float | None:
        """Return the seconds until the first thing left is left for too long, None if nothing is."""
        if not self._since:
            return None
        return max(0.0, min(self._since.values()) + self._seconds - self.clock())


class Peers:
    """Which other schedulers are alive, and which of them are not to be waited for now.

    Whether anything is left to another scheduler is a matter of speed only: whatever is left may be taken
    at any time. Belongs to one event loop.

    :param job: the id of this scheduler's job.
    """

    def __init__(self, job: int | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._job = job
        self.clock = clock
        self._late: dict[int | None, float] = {}
        self._dealt_none_until: dict[int | None, float] = {}
        self.others: frozenset[int] = frozenset()
        """The job ids of the other schedulers that were alive when the database was asked last."""
        self._fellows: frozenset[int] = frozenset()
        self.in_doubt = True
        """Whether one may have come or gone since then."""

    def see(self, alive: Collection[int], fellows: Collection[int]) -> bool:
        """Learn which schedulers are alive; return whether one is gone.

        :param fellows: those that share by these rules. A stock one examines every run in each of its loops
            and starts whatever is queued: it helps itself.
        """
        before, self.others = self.others, frozenset(alive) - {self._job}
        self._fellows = self.others.intersection(fellows)
        self.in_doubt = False
        return bool(before - self.others)

    @property
    def beside_others_kind(self) -> bool:
        """Whether a scheduler is alive that does not share by these rules, such as a stock one."""
        return bool(self.others - self._fellows)

    @property
    def only_fellows(self) -> bool:
        """Whether others are alive, and all of them share by these rules."""
        return bool(self.others) and not self.beside_others_kind

    def has(self, owner: int | None) -> bool:
        """Whether a run examined last by the job *owner* is another live scheduler's."""
        return owner in self.others

    def spares(self, owner: int | None) -> bool:
        """Whether what belongs to the job *owner* is left to it."""
        return owner in self.others and self.clock() >= self._late.get(owner, 0.0)

    def spared(self) -> frozenset[int]:
        """Return the other schedulers to which their work is left."""
        return frozenset(owner for owner in self.others if self.spares(owner))

    def note_late(self, owners: Iterable[int | None]) -> None:
        """Leave nothing more to *owners* for a while."""
        until = self.clock() + NOT_SPARED_FOR
        self._late = {owner: end for owner, end in self._late.items() if owner in self.others}
        self._late.update(dict.fromkeys(owners, until))

    def hand(self) -> Hand:
        """Return which of the runs are dealt to this scheduler."""
        everyone = self._dealt_among()
        return Hand(everyone.index(self._job), len(everyone))

    def dealt_to(self, run: int) -> int | None:
        """Return the other scheduler that the run with this id is dealt to, None if to this one."""
        everyone = self._dealt_among()
        chosen = everyone[run % len(everyone)]
        return None if chosen == self._job else chosen

    def _dealt_among(self) -> list[int | None]:
        """Each of these gets as many runs as any other; some get none for a while, stock ones never do."""
        if not self._fellows or self._job is None:
            return [self._job]
        now = self.clock()
        there = [other for other in self._fellows if now >= self._dealt_none_until.get(other, 0.0)]
        return [*sorted((*there, self._job))]

    def deal_none_to(self, others: Iterable[int | None]) -> None:
        """Deal no runs to *others*, who did not fetch theirs, for a while."""
        until = self.clock() + NO_STARTS_FOR
        self._dealt_none_until = {
            one: end for one, end in self._dealt_none_until.items() if one in self.others
        }
        self._dealt_none_until.update(dict.fromkeys(others, until))


class Courtesy:
    """What critical sections leave to other schedulers: task instances of their runs, and a turn.

    A scheduler that goes on queueing what is left to it, however slowly, keeps it: on a busy machine all of
    them are slow, and whoever took from whom would have all of it. It is late when for a while none of what
    it could queue is gone. One with little of its own to do helps another with what has waited for as long.

    :param lines_up: whether sections wait for their turn: not where other routines stand still meanwhile.
    """

    def __init__(self, peers: Peers, *, lines_up: bool = True) -> None:
        self._peers = peers
        self._lines_up = lines_up
        self._no_line_until = -inf
        self._waited = Patience(LEFT_FOR)
        self._stalled = Patience(LEFT_FOR)
        self._left: dict[int | None, set[UUID]] = {}
        self._went_on: Counter[int | None] = Counter()
        self._looked = -inf
        self._look_every = LOOK_EVERY
        self._in_order_until = -inf
        self._took = 0.0
        self._look_again = TAKEN_LOOK_AGAIN
        self._not_before = 0.0

    def spared(self) -> frozenset[int]:
        """Return the schedulers to which something is left now."""
        return self._peers.spared()

    @property
    def order_decides(self) -> bool:
        """Whether there was too little for all a moment ago, so that nothing is left to others now either."""
        return self._waited.clock() < self._in_order_until

    def after_order(self, *, tried: bool, scarce: bool) -> None:
        """Note a section that left nothing to others: nobody is waited for, or late.

        :param tried: whether it had tried to, in vain.
        :param scarce: whether what it queued has used up something that others may want.
        """
        if tried:
            self._in_order_until = self._waited.clock() + ORDER_FOR
        elif not scarce:
            self._in_order_until = -inf
        self._leave(())

    @property
    def patience(self) -> float:
        """The seconds to wait in line for a section that another is in.

        None beside a scheduler that only tries, such as a stock one: it would never find the section free.
        """
        may = self._lines_up and self._peers.only_fellows and perf_counter() >= self._no_line_until
        return WAIT_IN_LINE if may else 0.0

    def look_due(self, busy: int) -> bool:
        """Whether it is time to see what has become of what was left, with *busy* queued in this section."""
        every = LOOK_EVERY if busy < BUSY else self._look_every
        return self._waited.clock() >= self._looked + every

    def judge(self, could_run: Sequence[Candidate], busy: int) -> list[Candidate]:
        """Return those of *could_run* to queue here although they are others'; the rest is left to them.

        :param could_run: what others could queue now, best first.
        :param busy: how many task instances of its own this scheduler has queued in this section.
        """
        theirs: dict[int | None, set[UUID]] = {}
        for one in could_run:
            theirs.setdefault(one.owner, set()).add(one.id)
        went_on = {owner for owner, left in self._left.items() if left - theirs.get(owner, set())}
        self._went_on.update(went_on)
        all_well = went_on >= self._left.keys() if self._left else not theirs
        longer = min(2 * self._look_every, LOOK_AT_LEAST_EVERY)
        self._look_every = longer if all_well and busy >= BUSY else LOOK_EVERY
        late = {owner for owner, _ in self._stalled.late((owner, self._went_on[owner]) for owner in theirs)}
        self._peers.note_late(late)
        waited = self._waited.late(one.id for one in could_run) if busy < BUSY else set()
        taken = [one for one in could_run if one.owner in late or one.id in waited]
        gone = {one.id for one in taken}
        self._leave([one for one in could_run if one.id not in gone])
        return taken

    def _leave(self, left: Sequence[Candidate]) -> None:
        self._left = {}
        for one in left[:LOOK_AT]:  # what every look sees: else a shorter one would seem to miss some
            self._left.setdefault(one.owner, set()).add(one.id)
        self._waited.leave(one.id for one in left)
        self._stalled.leave((owner, self._went_on[owner]) for owner in self._left)
        self._looked = self._waited.clock()

    def after_section(self, seconds: float) -> None:
        """Note that a section took so long. Others get a turn of that length."""
        self._took = seconds
        self._look_again = TAKEN_LOOK_AGAIN
        self._not_before = perf_counter() + TURN * seconds if self._peers.others else 0.0

    def after_taken(self) -> float:
        """Note that a section was found taken; return the seconds after which it is tried again unasked.

        That is as long as one takes here. Whoever is in it may have looked before what waits here was
        committed, and nobody else tells.
        """
        now = perf_counter()
        if self.patience:
            self._no_line_until = now + NO_LINE_FOR
        self._not_before = now + TAKEN_REST * self._took
        again = min(max(self._look_again, self._took), LOOK_EVERY)
        self._look_again = min(2 * self._look_again, TAKEN_LOOK_LATER)
        return again

    def sees(self, queued: int, most: int) -> int:
        """Return how many of what is left to look at, of *most*, after *queued* of its own."""
        return most if queued < BUSY else min(most, LOOK_AT)

    def turn_in(self) -> float:
        """Return the seconds until the next section may begin, not above zero if it may now."""
        return self._not_before - perf_counter()

    def look_again_in(self) -> float | None:
        """Return the seconds until something that was left may be taken, None if nothing was."""
        ends_in = self._waited.ends_in()
        return None if ends_in is None else max(LOOK_EVERY, ends_in)
