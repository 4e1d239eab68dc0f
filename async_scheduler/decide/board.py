"""The task instances of one run while it is being decided.

Two views of the same states: the *live* one, which every change enters at once, and the *counted* one,
which holds what was finished when the round began. Airflow's trigger rules read a list of finished task
instances taken at the start of a pass (``DagRun.task_instance_scheduling_decisions``), so a change shows
in the counts only after :meth:`Board.next_round`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from async_scheduler.decide.plan import NO_SET, DagPlan, TaskSet
from async_scheduler.decide.rules import NO_SETUPS, Counts, Setups
from async_scheduler.decide.states import FINISHED_COUNT, LAST_FINISHED, LAST_SCHEDULABLE, NO_STATE, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Board:
    """Task instances as parallel lists, sorted by (task, map index), with counts for every task set.

    :param tasks: the task index of each task instance.
    :param map_indexes: its map index, -1 where it has none.
    :param states: its state code (see ``states``); the list is changed in place.
    """

    __slots__ = (
        "_done",
        "_expected",
        "_first",
        "_tally",
        "finished_rows",
        "map_indexes",
        "plan",
        "rows",
        "states",
        "tasks",
    )

    def __init__(
        self, plan: DagPlan, tasks: Sequence[int], map_indexes: Sequence[int], states: list[int]
    ) -> None:
        self.plan = plan
        self.tasks = tasks
        self.map_indexes = map_indexes
        self.states = states
        self.rows = [0] * len(plan.tasks)
        self.finished_rows = [0] * len(plan.tasks)
        self._tally = [0] * (FINISHED_COUNT * len(plan.sets))
        """Finished instances of set ``n`` in state ``s``, at ``n * FINISHED_COUNT + s``."""
        self._done = [0] * len(plan.sets)
        self._count_all()
        self._first: list[int] | None = None
        self._expected = plan.sizes if not plan.expands else [self._count(s) for s in plan.sets]

    def _count_all(self) -> None:
        """Count what there is and what of it has finished; ``_finish`` spelt out, as each visit begins so."""
        rows, finished_rows, tally, done = self.rows, self.finished_rows, self._tally, self._done
        sets_with = self.plan.sets_with
        for task, state in zip(self.tasks, self.states, strict=True):
            rows[task] += 1
            if state <= LAST_FINISHED:
                finished_rows[task] += 1
                for number in sets_with[task]:
                    tally[number * FINISHED_COUNT + state] += 1
                    done[number] += 1

    def _finish(self, task: int, state: int) -> None:
        self.finished_rows[task] += 1
        for number in self.plan.sets_with[task]:
            self._tally[number * FINISHED_COUNT + state] += 1
            self._done[number] += 1

    def _count(self, tasks: TaskSet) -> int:
        """Return how many instances a set should have: rows where one is mapped, otherwise its members."""
        return sum(self.rows[member] for member in tasks.members) if tasks.expands else len(tasks.members)

    def next_round(self, finished: Iterable[int]) -> set[int]:
        """Count the task instances at the positions *finished*, which finished since the round began.

        Return the tasks that read one of the sets these belong to.
        """
        touched: set[int] = set()
        for position in finished:
            task = self.tasks[position]
            self._finish(task, self.states[position])
            touched.update(self.plan.sets_with[task])
        return {task for number in touched for task in self.plan.readers[number]}

    def positions_of(self, tasks: Iterable[int]) -> list[int]:
        """Return the positions of the instances of *tasks*, in order."""
        first = self._first
        if first is None:
            first = self._first = [0, *accumulate(self.rows)]
        return [p for task in sorted(tasks) for p in range(first[task], first[task] + self.rows[task])]

    def has_indexes(self, task: int, length: int) -> bool:
        """Return whether the instances of *task* are those with map indexes from 0 to *length* - 1."""
        positions = self.positions_of([task])
        if len(positions) != length:
            return False
        # They are distinct and in order, so the first and the last tell.
        ends = self.map_indexes[positions[0]], self.map_indexes[positions[-1]]
        return ends == (0, length - 1)

    def open_positions(self, positions: Iterable[int], pending: bytearray) -> list[int]:
        """Return those of *positions* that may become scheduled or flagged in this round.

        The others are in no schedulable state, or it takes one look to see that their upstream decides
        nothing yet: nothing of it has finished, or only successes have and the rule is a patient one. These
        are marked in *pending*. The loop over all instances of a run: it must be cheap.
        """
        states, tasks, tally, done, expected = (
            self.states,
            self.tasks,
            self._tally,
            self._done,
            self._expected,
        )
        quick_set, patient = self.plan.quick_set, self.plan.patient
        found = []
        for position in positions:
            if not NO_STATE <= states[position] <= LAST_SCHEDULABLE:
                continue
            task = tasks[position]
            number = quick_set[task]
            if number >= 0:
                finished = done[number]
                if finished < expected[number] and (
                    not finished or (patient[task] and finished == tally[number * FINISHED_COUNT + SUCCESS])
                ):
                    pending[position] = 1
                    continue
            found.append(position)
        return found

    def counts(self, number: int) -> Counts:
        """Return what task set *number* amounts to in this round."""
        base = number * FINISHED_COUNT
        success, failed, skipped, upstream_failed, removed = self._tally[base : base + FINISHED_COUNT]
        return Counts(
            success, failed, skipped, upstream_failed, removed, self._done[number], self._expected[number]
        )

    def setups(self, number: int) -> Setups:
        """Return the same for a set of direct upstream setups; NO_SET gives none."""
        if number == NO_SET:
            return NO_SETUPS
        counts = self.counts(number)
        return Setups(counts.upstream, counts.success, counts.skipped)
