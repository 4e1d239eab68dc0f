"""Runs on which the two once disagreed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.oracle.dags import Dag, Task
from tests.oracle.test_visit import agree, oracle

if TYPE_CHECKING:
    from tests.oracle.airflow import Oracle

__all__ = ["oracle"]


def test_what_is_stuck_is_found_after_a_round_that_only_scheduled(oracle: Oracle) -> None:
    """A scheduled task whose upstream failed meanwhile is flagged by the pass after the last scheduling."""
    agree(oracle, Dag((Task(), Task(state="failed", try_number=1), Task((1,), state="scheduled"))))


def test_a_map_sees_its_input_flagged_in_the_same_look_at_what_is_stuck(oracle: Oracle) -> None:
    """The inputs of a map are read as they are, also while the stuck ones are being flagged."""
    failed, stuck = Task(state="failed", try_number=1), Task((0,), state="scheduled", try_number=1)
    agree(oracle, Dag((failed, stuck, Task((1,), mapped=(1,)))))
