"""Nothing the sync loop does is missed: our lists against the source of the installed Airflow."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

from async_scheduler.routines.catalogue import STAGES
from async_scheduler.routines.timers import TIMERS, Timer

PLUMBING = {
    # Calls of the loop that are not work: sessions, locks, time, logging, metrics.
    *("add", "append", "commit", "rollback", "expunge_all", "create_session", "prohibit_commit"),
    *("scalars", "select", "where", "options", "selectinload", "with_row_locks", "get_dag_for_run"),
    *("timer", "start", "stop", "incr", "debug", "info", "error", "exception", "is_lock_not_available_error"),
    *("count", "range", "list", "sum", "min", "any", "type", "now", "sleep", "run", "cast"),
    *("getboolean", "getfloat", "getint", "EventScheduler", "call_regular_interval", "cached_get_dag"),
    *("lru_cache", "partial", "_is_metrics_enabled", "_is_tracing_enabled", "BundleUsageTrackingManager"),
    *("adopt_or_reset_orphaned_tasks", "_do_scheduling"),
}


def _function(name: str) -> ast.FunctionDef:
    source = textwrap.dedent(inspect.getsource(getattr(SchedulerJobRunner, name)))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def _called(node: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            yield ast.unparse(call.func).rpartition(".")[2].strip(")("), call


def _arguments(call: ast.Call) -> tuple[str, str, bool]:
    """Return delay, action and non_fatal of a ``call_regular_interval`` as source text."""
    named = {word.arg: ast.unparse(word.value) for word in call.keywords}
    positional = [ast.unparse(argument) for argument in call.args]
    delay = named.get("delay") or positional[0]
    action = named.get("action") or positional[1]
    return delay, action.rpartition(".")[2], named.get("non_fatal") == "True"


UPSTREAM_TIMERS = {
    action: (delay, non_fatal)
    for name, call in _called(_function("_run_scheduler_loop"))
    if name == "call_regular_interval"
    for delay, action, non_fatal in [_arguments(call)]
}


def test_every_timer_of_the_sync_loop_is_mirrored() -> None:
    assert {timer.mirrors for timer in TIMERS} == set(UPSTREAM_TIMERS)


@pytest.mark.parametrize("timer", TIMERS, ids=lambda timer: timer.name)
def test_timer_has_upstreams_interval_and_error_policy(timer: Timer) -> None:
    delay, non_fatal = UPSTREAM_TIMERS[timer.mirrors]
    assert timer.non_fatal == non_fatal
    if isinstance(timer.interval, float):
        assert timer.interval == float(delay)
    elif delay != "check_interval":
        assert f"'{timer.interval[0]}', '{timer.interval[1]}'" in delay.replace("section=", "")


def test_every_stage_of_the_sync_loop_is_mirrored() -> None:
    called = {
        name
        for function in ("_run_scheduler_loop", "_do_scheduling")
        for name, _ in _called(_function(function))
    }
    mirrored = {name for stage in STAGES for name in stage.mirrors}
    timers = {timer.mirrors for timer in TIMERS}
    assert mirrored <= called
    assert called - PLUMBING - timers == mirrored


def test_adoption_runs_at_start_as_in_the_sync_loop() -> None:
    assert [timer.mirrors for timer in TIMERS if timer.at_start] == ["adopt_or_reset_orphaned_tasks"]


def test_design_lists_every_routine() -> None:
    design = (Path(__file__).parents[2] / "DESIGN.md").read_text()
    for name in [*(stage.routine for stage in STAGES), *(timer.name for timer in TIMERS)]:
        assert f"| `{name}` |" in design
