"""Whether one task instance may go on, and the state it gets where a dependency decides that at once.

Airflow evaluates all dependencies of a task instance, each may set its state, and the order is that of a
set of classes: arbitrary from process to process. Here it is fixed so that a failure is never hidden: a
skip left by a branch first, then the trigger rule, then the inputs of a map, which respect a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_scheduler.decide.plan import NO_SET, TaskPlan
from async_scheduler.decide.rules import RULES, never, setup_constraint
from async_scheduler.decide.states import FAILED, LAST_FINISHED, SKIPPED, SUCCESS, UPSTREAM_FAILED

if TYPE_CHECKING:
    from async_scheduler.decide.board import Board
    from async_scheduler.decide.facts import RunFacts


class Dependencies:
    """The dependencies of the task instances on one board.

    ``raised`` tells, after :meth:`met`, whether a trigger rule changed the state
    (``DepContext.have_changed_ti_states``, which a skip by a branch leaves alone).
    """

    __slots__ = ("_board", "_facts", "raised")

    def __init__(self, board: Board, facts: RunFacts) -> None:
        self._board = board
        self._facts = facts
        self.raised = False

    def met(self, position: int, *, waits: bool) -> bool:
        """Return whether every dependency of the task instance is met; may set its state on the board.

        Mirrors ``TaskInstance.are_dependencies_met``. With *waits* a retry or reschedule that is not due
        counts as unmet, without it does not (``ignore_in_retry_period``, ``ignore_in_reschedule_period``).
        """
        board, facts = self._board, self._facts
        task = board.plan.tasks[board.tasks[position]]
        self.raised = False
        passed = not (waits and position in facts.waiting)
        if task.index in facts.blocked_by_past:
            passed = False
        if task.skip_parents and self._skipped_by_branch(position, task):
            passed = False
        if task.direct_set != NO_SET and not self._rule_passes(position, task):
            passed = False
        if task.inputs and not self._inputs_succeeded(position, task):
            passed = False
        return passed

    def _skipped_by_branch(self, position: int, task: TaskPlan) -> bool:
        """Skip the task instance if a finished parent decided so (``NotPreviouslySkippedDep``)."""
        for parent in task.skip_parents:
            if not self._board.finished_rows[parent.task]:
                continue
            map_index = self._board.map_indexes[position] if parent.per_index else -1
            decision = self._facts.skips.get((parent.task, map_index))
            if decision is not None and skips(decision, task.task_id):
                self._board.states[position] = SKIPPED
                return True
        return False

    def _rule_passes(self, position: int, task: TaskPlan) -> bool:
        """Apply the trigger rule and what surrounds it for setups (``TriggerRuleDep``)."""
        if task.is_teardown:
            return self._direct_passes(position, task) and self._scope_done(task)
        if task.setup_set == NO_SET:
            return self._direct_passes(position, task)
        counts = self._board.counts(task.setup_set)
        state, passed = setup_constraint(counts, self._board.map_indexes[position])
        changed = self._set_state(position, state)
        if changed and not passed:
            return False
        return self._direct_passes(position, task) and passed

    def _direct_passes(self, position: int, task: TaskPlan) -> bool:
        board = self._board
        rule = RULES.get(task.trigger_rule, never)
        setups = board.setups(task.direct_setup_set)
        state, passed = rule(board.counts(task.direct_set), setups, board.map_indexes[position])
        self._set_state(position, state)
        return passed

    def _scope_done(self, task: TaskPlan) -> bool:
        """Return whether all tasks between the setups and this teardown finished."""
        if task.scope_set == NO_SET:
            return True
        counts = self._board.counts(task.scope_set)
        return counts.done >= counts.upstream

    def _inputs_succeeded(self, position: int, task: TaskPlan) -> bool:
        """Return whether no input of a mapped task went wrong (``MappedTaskUpstreamDep``).

        Looks at the states as they are, not as they were when the round began, and only at instances that
        are not expanded themselves. An input that failed or was skipped flags the task instance.
        """
        board = self._board
        finished = {
            board.states[at]
            for at in board.positions_of(task.inputs)
            if board.map_indexes[at] == -1 and board.states[at] <= LAST_FINISHED
        }
        if not finished or finished == {SUCCESS}:
            return True
        if board.states[position] not in (FAILED, UPSTREAM_FAILED):
            if FAILED in finished or UPSTREAM_FAILED in finished:
                self._set_state(position, UPSTREAM_FAILED)
            elif SKIPPED in finished:
                self._set_state(position, SKIPPED)
        return False

    def _set_state(self, position: int, state: int | None) -> bool:
        if state is None or self._board.states[position] == state:
            return False
        self._board.states[position] = state
        self.raised = True
        return True


def skips(decision: object, task_id: str) -> bool:
    """Return whether the value of a ``skipmixin_key`` XCom tells *task_id* to be skipped."""
    if not isinstance(decision, dict):
        return False
    if "followed" in decision and task_id not in decision["followed"]:
        return True
    return "skipped" in decision and task_id in decision["skipped"]
