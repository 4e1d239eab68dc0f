"""Runs and lives on which the two once disagreed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.oracle import test_histories as histories
from tests.oracle.dags import Dag, Task
from tests.oracle.interleaving import InterleavedLife
from tests.oracle.story import Group, Step, Story, Work
from tests.oracle.test_interleaving import interleaved_end
from tests.oracle.test_visit import agree, oracle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.oracle.airflow import Oracle
    from tests.oracle.histories import Rest
    from tests.support.postgres import Database

__all__ = ["oracle"]


def test_what_is_stuck_is_found_after_a_round_that_only_scheduled(oracle: Oracle) -> None:
    """A scheduled task whose upstream failed meanwhile is flagged by the pass after the last scheduling."""
    agree(oracle, Dag((Task(), Task(state="failed", try_number=1), Task((1,), state="scheduled"))))


def test_a_look_at_what_is_stuck_that_has_to_wait_waits_as_a_whole(oracle: Oracle) -> None:
    """What a branch skips after it was scheduled in the same visit is flagged in the next; so is the rest.

    Airflow flags both in one pass and finds the task behind them deadlocked, before it sees the flags.
    """
    failed, branch = Task(state="failed", try_number=1), Task((0,), kind="branch", followed=())
    stuck, behind = Task((0,), state="scheduled", try_number=1), Task((2,))
    agree(oracle, Dag((failed, branch, stuck, behind, Task((1,), rule="always"))))


def test_a_map_sees_its_input_flagged_in_the_same_look_at_what_is_stuck(oracle: Oracle) -> None:
    """The inputs of a map are read as they are, also while the stuck ones are being flagged."""
    failed, stuck = Task(state="failed", try_number=1), Task((0,), state="scheduled", try_number=1)
    agree(oracle, Dag((failed, stuck, Task((1,), mapped=(1,)))))


def test_a_task_that_is_new_in_the_dag_runs_in_the_run_under_way(airflow_db: Database) -> None:
    """A new dag version is a change that a run is looked at for, though no task instance has changed."""
    histories.agree(Story((Work(),), steps=(Step("version", flag=2),)))


def test_a_run_behind_one_that_a_user_ends_goes_on_at_once(airflow_db: Database) -> None:
    """A run that a user ends is visited no more; the one that waited for it must hear of it all the same."""
    waiting, last = Work(wait_for_downstream=True), Work((0,))
    histories.agree(Story((waiting, last), runs=2, max_active_runs=2, steps=(Step("run success", run=0),)))


def test_a_run_behind_one_that_airflows_code_decides_goes_on_at_once(airflow_db: Database) -> None:
    """Dags with mapped groups are left to Airflow's code; their runs are waited for like any others."""
    first, mapped, waiting = Work(returned=1), Work((0,), group=0), Work(past=True)
    story = Story((first, mapped, waiting), groups=(Group(over=0),), runs=2, max_active_runs=2)
    histories.agree(replace(story, steps=(Step("run success", run=0),)))
    histories.agree(replace(story, steps=(Step("end", flag=3),)))


class OverlappingHandover(InterleavedLife):
    """A deferred task resumes; its first stay's end is read between the commit that queues it and its end."""

    def _history(self) -> Iterator[Rest]:
        yield self._rest("its beginning")
        for _ in ("it is deferred", "it resumes"):
            self._let_end(self._workers.in_order())
        yield from super()._history()

    async def _play(self) -> None:
        await self._go_on_until(self._begin("enqueue"), "after its commit")
        self._begin("executor:HeldExecutor").free = True
        await self._stepper.settle()


def test_a_task_that_resumes_is_not_taken_for_dead_while_it_is_handed_over(airflow_db: Database) -> None:
    story = Story((Work(ends=("defer", "success")),))
    end = interleaved_end(story, airflow_db, b"", OverlappingHandover)
    ((state, try_number, *_),) = end.picture.instances.values()
    assert (state, try_number) == ("success", 1)


def test_a_map_over_a_map_that_fails_in_the_same_pass_fails(oracle: Oracle) -> None:
    """Maps are expanded one after another in the order of task ids; a later one sees how an earlier ended."""
    done = Task(state="success", try_number=1)
    maps = Task((0,), mapped=(0,)), Task((1,), rule="always", mapped=(1,))
    agree(oracle, Dag((done, *maps)))
    agree(oracle, Dag((done, *maps), names=("a", "c", "b")))
    agree(oracle, Dag((Task(state="success", try_number=1, returned=0), *maps)))
