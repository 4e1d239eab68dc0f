"""How the demo's runs must end, and whether they did. No I/O but reading the declaration.

The declaration is ``config/dev/expected_runs.toml``; a DAG without an entry there is a complaint.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from async_scheduler.devcluster.problem import ClusterProblem

Start = Literal["trigger", "timetable", "asset"]
ENDED = frozenset({"success", "failed"})
"""The states in which a run has ended (``airflow.utils.state.State.finished_dr_states``)."""


class RunRecord(NamedTuple):
    """A dag run as the API tells it."""

    dag_id: str
    run_id: str
    state: str
    queued_at: datetime | None
    ended_at: datetime | None


class TaskRecord(NamedTuple):
    """A task instance as the API tells it."""

    dag_id: str
    run_id: str
    task_id: str
    state: str
    try_number: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """How the runs of one DAG must end; the fields are those of ``expected_runs.toml``."""

    dag_id: str
    start: Start
    runs: int
    state: str
    tasks: Mapping[str, int]
    tries: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.start not in get_args(Start) or self.state not in ENDED or self.runs < 1:
            raise ValueError(self.dag_id)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one DAG: where its runs and task instances stand, and what is wrong.

    *seconds* is the time from the first run being queued to the last one's end, None before that.
    *complaints* can still change while not *ended*.
    """

    dag_id: str
    runs_expected: int
    run_states: Mapping[str, int]
    tasks_expected: int
    task_states: Mapping[str, int]
    ended: bool
    seconds: float | None
    complaints: tuple[str, ...]

    @property
    def as_expected(self) -> bool:
        """Whether every run has ended, and as declared."""
        return self.ended and not self.complaints


def read_expectations(file: Path) -> tuple[Expectation, ...]:
    """Return the expectations declared in *file*, in its order.

    :raises ClusterProblem: when the file is not as its own head says.
    """
    try:
        declared = tomllib.loads(file.read_text())
        return tuple(Expectation(dag_id, **fields) for dag_id, fields in declared.items())
    except (TypeError, ValueError) as error:
        raise ClusterProblem(
            f"{file} is not a declaration of expected runs: {error}.", "The head of the file tells the form."
        ) from None


def judge(
    expectations: Sequence[Expectation], runs: Sequence[RunRecord], tasks: Sequence[TaskRecord]
) -> list[Verdict]:
    """Return one verdict for each expectation, from all *runs* and *tasks* of the cluster."""
    return [
        _verdict(
            expectation,
            [run for run in runs if run.dag_id == expectation.dag_id],
            [task for task in tasks if task.dag_id == expectation.dag_id],
        )
        for expectation in expectations
    ]


def undeclared(expectations: Collection[Expectation], dag_ids: Collection[str]) -> set[str]:
    """Return the DAGs of the cluster for which no end is declared."""
    return set(dag_ids) - {expectation.dag_id for expectation in expectations}


def _verdict(expected: Expectation, runs: Sequence[RunRecord], tasks: Sequence[TaskRecord]) -> Verdict:
    run_states = Counter(run.state for run in runs)
    task_states = Counter(task.state for task in tasks)
    ended = len(runs) >= expected.runs and run_states.keys() <= ENDED
    return Verdict(
        dag_id=expected.dag_id,
        runs_expected=expected.runs,
        run_states=run_states,
        tasks_expected=sum(expected.tasks.values()),
        task_states=task_states,
        ended=ended,
        seconds=_seconds(runs) if ended else None,
        complaints=(
            *_differences("runs", {expected.state: expected.runs}, run_states),
            *_differences("task instances", expected.tasks, task_states),
            *_wrong_tries(expected.tries, tasks),
        ),
    )


def _differences(what: str, expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    return [
        f"{what} {state}: {found.get(state, 0)} instead of {expected.get(state, 0)}"
        for state in sorted({*expected, *found})
        if expected.get(state, 0) != found.get(state, 0)
    ]


def _wrong_tries(expected: Mapping[str, int], tasks: Sequence[TaskRecord]) -> list[str]:
    return [
        f"{task.task_id} took {task.try_number} tries instead of {expected[task.task_id]}"
        for task in tasks
        if task.try_number != expected.get(task.task_id, task.try_number)
    ]


def _seconds(runs: Sequence[RunRecord]) -> float | None:
    queued = [run.queued_at for run in runs if run.queued_at]
    ended = [run.ended_at for run in runs if run.ended_at]
    return (max(ended) - min(queued)).total_seconds() if queued and ended else None
