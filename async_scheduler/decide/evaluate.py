"""One visit to a run: round after round in memory until nothing changes any more.

Each round equals one pass of Airflow's scheduler over the run (``DagRun.update_state`` and
``schedule_tis``): it sees what had finished when it began, flags, schedules, and may end the run. What
takes the sync scheduler one loop and one transaction per level of the DAG ends here in one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from async_scheduler.decide.dependencies import Dependencies
from async_scheduler.decide.facts import NO_FACTS, RunFacts
from async_scheduler.decide.lengths import Length, ResultOf, length_of
from async_scheduler.decide.states import (
    AWAITING_INPUT,
    DEFERRED,
    LAST_FINISHED,
    LAST_SCHEDULABLE,
    NO_STATE,
    SCHEDULED,
    SKIPPED,
    SUCCESS,
    UP_FOR_RESCHEDULE,
    UPSTREAM_FAILED,
)
from async_scheduler.decide.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from async_scheduler.decide.board import Board


@dataclass(slots=True)
class Outcome:
    """What one visit decided. Task instances are given by their position on the board.

    ``scheduled`` become scheduled, ``emptied`` succeed without being run, ``flagged`` maps others to the
    finished state they get. ``expanded`` maps unexpanded ones of mapped tasks to the number of instances
    they become, None where that cannot be told. ``verdict`` ends the run. ``unsettled`` says that the next
    visit will change more, ``next_due`` when the first waiting retry or reschedule falls due. ``strange``
    means that nothing was decided: the instances of a mapped task are not those it should have, and only
    Airflow's code puts that right.
    """

    scheduled: list[int] = field(default_factory=list)
    emptied: list[int] = field(default_factory=list)
    flagged: dict[int, int] = field(default_factory=dict)
    expanded: dict[int, int | None] = field(default_factory=dict)
    verdict: Verdict | None = None
    unsettled: bool = False
    strange: bool = False
    next_due: datetime | None = None
    rounds: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything of the run becomes another than it was."""
        return bool(self.scheduled or self.emptied or self.flagged or self.expanded or self.verdict)


def evaluate(board: Board, facts: RunFacts = NO_FACTS) -> Outcome:
    """Decide everything that can be decided about a run now. Changes the states on *board*."""
    return Visit(board, facts).settle()


class Visit:
    """The rounds over one run."""

    __slots__ = ("_board", "_dependencies", "_facts", "_hopeless", "_outcome", "_states", "_unfinished")

    def __init__(self, board: Board, facts: RunFacts) -> None:
        self._board = board
        self._facts = facts
        self._states = board.states
        self._dependencies = Dependencies(board, facts)
        self._hopeless = bytearray(len(board.states))
        """1 for candidates whose dependencies are unmet in the current counts, waiting time apart."""
        self._outcome = Outcome()
        self._unfinished = len(board.states) - sum(board.finished_rows)

    def settle(self) -> Outcome:
        """Run rounds until one changes nothing, or ends the run.

        Also after a round that only scheduled: the next one may find that what remains is stuck.
        """
        outcome = self._outcome
        candidates: Iterable[int] = range(len(self._states))
        while True:
            outcome.rounds += 1
            ready, finished = self._round(candidates)
            if outcome.strange:
                return outcome
            if outcome.verdict is not None or outcome.unsettled or not (ready or finished):
                break
            touched = self._board.next_round(finished)
            # These look at states as they are, so that a change within the round may reach them.
            candidates = self._board.positions_of(touched | self._board.plan.live_readers)
        outcome.next_due = self._next_due()
        return outcome

    def _round(self, candidates: Iterable[int]) -> tuple[list[int], list[int]]:
        """One pass over the run. Return the positions that were ready, and those that finished."""
        outcome, states = self._outcome, self._states
        before, as_it_began = len(outcome.expanded), states[:]
        ready, flagged, resolved, changed = self._examine(candidates)
        unfinished, deadlocked = bool(self._unfinished), False
        if len(outcome.expanded) > before:
            # An expansion makes Airflow look again at what is unfinished, flags of this pass included.
            changed, unfinished = True, self._unfinished > len(flagged) + len(resolved)
        if not (ready or changed):
            # As in Airflow, what the pass itself flagged still counts as unfinished.
            still = [position for position, state in enumerate(states) if state > LAST_FINISHED]
            if flagged:
                still = sorted(flagged + still)
            probed, runnable, recount = self._probe(still)
            if outcome.unsettled:
                # What this visit scheduled can be flagged only once that is written. The next visit goes
                # through this round as a whole: in Airflow it is one pass, which may end the run.
                states[:] = as_it_began
                return [], []
            flagged += probed
            if recount:
                still = [position for position in still if states[position] > LAST_FINISHED]
            unfinished, deadlocked = bool(still), not runnable and self._may_deadlock(still)
        for position in flagged:
            outcome.flagged[position] = states[position]
        if not outcome.unsettled:
            outcome.verdict = judge(self._board, unfinished, deadlocked)
        finished = flagged + resolved + self._schedule(ready)
        self._unfinished -= len(finished)
        return ready, finished

    def _examine(self, positions: Iterable[int]) -> tuple[list[int], list[int], list[int], bool]:
        """Look at the schedulable ones among *positions*, in order.

        Return those that are ready, those that got a finished state, those of mapped tasks that end where
        they should have been expanded, and whether one of the second kind was among the unready, which
        alone counts as a change (``DagRun._get_ready_tis``).
        """
        ready, flagged, resolved, changed = [], [], [], False
        states, waiting, met = self._states, self._facts.waiting, self._dependencies.met
        tasks, plan = self._board.tasks, self._board.plan
        revised: set[int] = set()
        for position in self._board.open_positions(positions, self._hopeless):
            passed = met(position, waits=True)
            self._hopeless[position] = not (
                passed or position in waiting or tasks[position] in plan.live_readers
            )
            if states[position] <= LAST_FINISHED:
                flagged.append(position)
                changed = changed or not passed
            elif not passed:
                continue
            elif not plan.maps or plan.tasks[tasks[position]].length is None:
                ready.append(position)
            elif self._board.map_indexes[position] >= 0:
                self._check_indexes(tasks[position], revised)
                ready.append(position)
            # What is mapped over this one and comes later in this round sees how it ends.
            elif self._expand(position):
                resolved.append(position)
        return ready, flagged, resolved, changed

    def _check_indexes(self, task: int, revised: set[int]) -> None:
        """Once for each task: are its instances those that its inputs ask for?"""
        if task in revised:
            return
        revised.add(task)
        length = self._length_of(task)
        self._outcome.strange |= length is not None and not self._board.has_indexes(task, length)

    def _expand(self, position: int) -> bool:
        """Expand an instance of a mapped task that has no map index (``TaskMap.expand_mapped_task``).

        It is written as the instances it becomes, which the next visit examines. Return whether it ends
        with it: without a known length or with one of 0.
        """
        task = self._board.tasks[position]
        if self._board.rows[task] > 1 or self._states[position] != NO_STATE:
            self._outcome.strange = True
            return False
        length = self._outcome.expanded[position] = self._length_of(task)
        if length:
            self._outcome.unsettled = True
            return False
        self._states[position] = UPSTREAM_FAILED if length is None else SKIPPED
        return True

    def _length_of(self, task: int) -> int | None:
        return length_of(_known(self._board.plan.tasks[task].length), self._result_of)

    def _result_of(self, result: ResultOf) -> int | None:
        """Return the length of a result: of a mapped task only once all its instances have finished."""
        if not result.mapped:
            return self._facts.lengths.get(result.task)
        positions = self._board.positions_of([result.task])
        if any(self._states[position] > LAST_FINISHED for position in positions):
            return None
        return self._facts.returned.get(result.task, 0)

    def _schedule(self, ready: list[int]) -> list[int]:
        """Schedule what is ready (``DagRun.schedule_tis``). Return the positions that succeeded at once."""
        tasks, plan, states, outcome = self._board.tasks, self._board.plan, self._states, self._outcome
        emptied = []
        for position in ready:
            if plan.tasks[tasks[position]].is_empty:
                states[position] = SUCCESS
                emptied.append(position)
            else:
                states[position] = SCHEDULED
                outcome.scheduled.append(position)
        outcome.emptied += emptied
        return emptied

    def _may_deadlock(self, unfinished: list[int]) -> bool:
        """Return whether the run is deadlocked if none of *unfinished* can run (``should_schedule``).

        These are all that are not finished now, and maybe some that this round has flagged.
        """
        tasks, hiders, states = self._board.tasks, self._board.plan.deadlock_hiders, self._states
        if not unfinished or DEFERRED in states or AWAITING_INPUT in states:
            return False
        return not hiders or hiders.isdisjoint(tasks[position] for position in unfinished)

    def _probe(self, unfinished: list[int]) -> tuple[list[int], bool, bool]:
        """Look for an unfinished task instance that may still run (``DagRun._are_premature_tis``).

        All unfinished states are looked at, up to the first that passes, and those before it may be
        flagged, running or not. Return what was flagged, whether one may run, and whether Airflow would
        take notice of the flags in the same pass. Leaves the visit unsettled where the round has to wait.
        """
        flagged: list[int] = []
        recount = False
        if not self._may_deadlock(unfinished):
            return flagged, True, recount
        scheduled_here = set(self._outcome.scheduled)
        for position in unfinished:
            if self._hopeless[position]:
                continue
            before = self._states[position]
            passed = self._dependencies.met(position, waits=False)
            if self._states[position] != before:
                if position in scheduled_here:
                    self._outcome.unsettled = True
                    return flagged, True, recount
                flagged.append(position)
                # For an up_for_reschedule instance Airflow notes the change on a copy, that is, nowhere.
                recount |= self._dependencies.raised and before != UP_FOR_RESCHEDULE
            if passed:
                return flagged, True, recount
        return flagged, False, recount

    def _next_due(self) -> datetime | None:
        """Return when the first task instance that only waits for its time falls due."""
        states = self._states
        due = (
            when
            for position, when in self._facts.waiting.items()
            if NO_STATE <= states[position] <= LAST_SCHEDULABLE
        )
        return min(due, default=None)


def _known(length: Length | None) -> Length:
    assert length is not None
    return length
