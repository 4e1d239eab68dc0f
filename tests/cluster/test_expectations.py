"""The verdict on a demo: only runs and task instances that ended as declared are good."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from async_scheduler.devcluster.cluster import CHECKOUT
from async_scheduler.devcluster.expectations import (
    Expectation,
    RunRecord,
    TaskRecord,
    Verdict,
    judge,
    read_expectations,
    undeclared,
)
from async_scheduler.devcluster.problem import ClusterProblem

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EXPECTED = Expectation("d", "trigger", 1, "success", {"success": 1, "skipped": 1}, {"a": 2})


def run(state: str = "success", run_id: str = "r", *, seconds: float = 5) -> RunRecord:
    return RunRecord("d", run_id, state, NOON, NOON + timedelta(seconds=seconds))


def tasks(a: str = "success", b: str = "skipped", tries: int = 2) -> list[TaskRecord]:
    return [TaskRecord("d", "r", "a", a, tries), TaskRecord("d", "r", "b", b, 1)]


def verdict(runs: list[RunRecord], records: list[TaskRecord]) -> Verdict:
    return judge([EXPECTED], runs, records)[0]


def test_runs_that_ended_as_declared_are_good() -> None:
    good = verdict([run()], tasks())
    assert good.as_expected
    assert good.seconds == 5


@pytest.mark.parametrize(
    ("runs", "records", "complaint"),
    [
        ([run("failed")], tasks(), "runs success: 0 instead of 1"),
        ([run(), run(run_id="s")], tasks(), "runs success: 2 instead of 1"),
        ([run()], tasks(a="failed"), "task instances failed: 1 instead of 0"),
        ([run()], tasks(b="success"), "task instances success: 2 instead of 1"),
        ([run()], tasks()[:1], "task instances skipped: 0 instead of 1"),
        ([run()], tasks(tries=1), "a took 1 tries instead of 2"),
    ],
)
def test_anything_else_is_a_complaint(
    runs: list[RunRecord], records: list[TaskRecord], complaint: str
) -> None:
    bad = verdict(runs, records)
    assert bad.ended
    assert not bad.as_expected
    assert complaint in bad.complaints


@pytest.mark.parametrize("runs", [[], [run("running")], [run("queued")], [run(), run("running", "s")]])
def test_it_waits_for_every_run(runs: list[RunRecord]) -> None:
    open_verdict = verdict(runs, tasks())
    assert not open_verdict.ended
    assert not open_verdict.as_expected
    assert open_verdict.seconds is None


def test_records_of_other_dags_do_not_count() -> None:
    others = [run()._replace(dag_id="e", state="failed")]
    assert verdict([run(), *others], [*tasks(), TaskRecord("e", "r", "a", "failed", 1)]).as_expected


def test_a_dag_without_a_declared_end_is_found() -> None:
    assert undeclared([EXPECTED], {"d", "surprise"}) == {"surprise"}


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        "[d]\nstart = 'trigger'",
        "[d]\nstart = 'never'\nruns = 1\nstate = 'success'\ntasks = {}",
        "[d]\nstart = 'trigger'\nruns = 1\nstate = 'sucess'\ntasks = {}",
        "[d]\nstart = 'trigger'\nruns = 0\nstate = 'success'\ntasks = {}",
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "expected.toml"
    file.write_text(text)
    with pytest.raises(ClusterProblem, match="is not a declaration of expected runs"):
        read_expectations(file)


def test_the_demo_covers_every_way_to_start_and_to_end() -> None:
    declared = read_expectations(CHECKOUT / "config" / "dev" / "expected_runs.toml")
    states: set[Any] = {state for expectation in declared for state in expectation.tasks}
    assert {expectation.start for expectation in declared} == {"trigger", "timetable", "asset"}
    assert {expectation.state for expectation in declared} == {"success", "failed"}
    assert states == {"success", "failed", "skipped", "upstream_failed"}
