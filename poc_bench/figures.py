"""The figures of a cell, from what was observed. Pure.

Every figure has a name, a unit and a direction in :data:`FIGURES`; a cell holds those that apply to it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from poc_bench.probes.driver import RETRIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from poc_bench.database.rows import RunRow, TaskInstanceRow
    from poc_bench.observation import Observation
    from poc_bench.plan import Plan

PERCENTILES = tuple(range(0, 101))


@dataclass(frozen=True, slots=True)
class Figure:
    """What a number means. ``better`` says in which direction."""

    name: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    description: str


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("throughput", "TI/s", "higher", "task instances from first run queued to last run closed"),
        Figure(
            "decision_rate",
            "TI/s",
            "higher",
            "task instances without upstream, from the first run's start to the last of them queued",
        ),
        Figure("seconds", "s", "lower", "from the moment the work became visible to the last run closed"),
        Figure("queue_delay_p50", "s", "lower", "from the last upstream task's end to queued, median"),
        Figure("queue_delay_p95", "s", "lower", "the same, 95th percentile"),
        Figure("queue_delay_p99", "s", "lower", "the same, 99th percentile"),
        Figure("queue_delay_max", "s", "lower", "the same, longest"),
        Figure("bystander_delay_p50", "s", "lower", "the same in dags without maps beside dags with, median"),
        Figure("bystander_delay_p99", "s", "lower", "the same, 99th percentile"),
        Figure(
            "expansion",
            "s",
            "lower",
            "from the end of what is mapped over to the first of the map queued, longest",
        ),
        Figure("run_start_delay_p50", "s", "lower", "from a run being due to running, median"),
        Figure("run_start_delay_p99", "s", "lower", "the same, 99th percentile"),
        Figure("run_close_delay_p50", "s", "lower", "from a run's last task's end to the run closed, median"),
        Figure("run_close_delay_p99", "s", "lower", "the same, 99th percentile"),
        Figure("run_latency_p50", "s", "lower", "from a run being due to the run closed, median"),
        Figure("run_latency_p99", "s", "lower", "the same, 99th percentile"),
        Figure("scheduler_cpu", "s / 1,000 TI", "lower", "CPU seconds of all schedulers"),
        Figure(
            "server_cpu", "s / 1,000 TI", "lower", "CPU seconds of the database server, workers' left out"
        ),
        Figure("peak_rss", "MiB", "lower", "highest resident memory of a scheduler"),
        Figure("statements", "per TI", "lower", "statements sent by the schedulers"),
        Figure("round_trips", "per TI", "lower", "messages with statements, each waited for"),
        Figure("rows", "per TI", "lower", "rows returned or changed"),
        Figure("commits", "per TI", "lower", "transactions committed by the schedulers"),
        Figure(
            "database_wait_share", "of wall time", "lower", "time with a statement under way, per scheduler"
        ),
        Figure("connections", "", "lower", "most database connections of the schedulers at once"),
        Figure("loop_lag_p99", "ms", "lower", "lag of the event loop, 99th percentile"),
        Figure("loop_lag_max", "ms", "lower", "the same, longest"),
        Figure("critical_section_busy", "", "lower", "times the critical section was found taken"),
        Figure("deadlocks", "", "lower", "deadlocks that the server resolved"),
        Figure("retries", "", "lower", "units of work tried again after a database error"),
        Figure("driver_errors", "", "lower", "statements that failed: lock not available, deadlock, ..."),
        Figure("idle_cpu", "% of a core", "lower", "CPU of schedulers with nothing to do"),
        Figure("idle_statements", "per s", "lower", "statements of schedulers with nothing to do"),
        Figure("server_commits_ratio", "", "neither", "commits by the server's count over ours"),
    )
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of a cell, and the percentiles 0 to 100 of its latencies in seconds."""

    figures: dict[str, float]
    distributions: dict[str, list[float]]


def measure(plan: Plan, seen: Observation) -> Measured:
    """Return the figures of a cell."""
    if plan.idle_seconds is not None:
        return Measured(_idle(plan.idle_seconds, seen) | _resources(seen), {})
    begin, end = _window(seen)
    count = len(seen.task_instances)
    latencies = {
        "queue_delay": queue_delays(plan, seen.task_instances),
        "bystander_delay": bystander_delays(plan, seen.task_instances),
        "run_start_delay": [_seconds(run.start_date, _due(run)) for run in seen.runs if run.start_date],
        "run_close_delay": close_delays(seen.runs, seen.task_instances),
        "run_latency": [_seconds(run.end_date, _due(run)) for run in seen.runs if run.end_date],
    }
    distributions = {name: percentiles(values) for name, values in latencies.items() if values}
    rate = decision_rate(plan, seen.runs, seen.task_instances)
    expansions = expansion_times(plan, seen.task_instances)
    figures = {
        **({} if rate is None else {"decision_rate": rate}),
        **({"expansion": max(expansions)} if expansions else {}),
        "throughput": count / (end - begin),
        "seconds": end - seen.opened.timestamp(),
        "scheduler_cpu": seen.scheduler_cpu / count * 1000,
        **_percentile_figures(distributions),
        **_driver(seen, end, count),
        **_resources(seen),
    }
    if seen.server_cpu is not None:
        figures["server_cpu"] = seen.server_cpu / count * 1000
    return Measured({name: value for name, value in figures.items() if name in FIGURES}, distributions)


def _window(seen: Observation) -> tuple[float, float]:
    queued = [run.queued_at for run in seen.runs if run.queued_at]
    ended = [run.end_date for run in seen.runs if run.end_date]
    return min(queued).timestamp(), max(ended).timestamp()


def _due(run: RunRow) -> datetime:
    """When the run could have started; for a run that the scheduler made, when it was made."""
    return max(run.queued_at, run.run_after) if run.queued_at else run.run_after


def _seconds(later: datetime | None, earlier: datetime | None) -> float:
    if later is None or earlier is None:
        raise ValueError("a time is missing")
    return (later - earlier).total_seconds()


def queue_delays(plan: Plan, rows: Sequence[TaskInstanceRow]) -> list[float]:
    """Return for each first try with upstream tasks: seconds from their last end to its being queued.

    A delay can be negative where a trigger rule does not wait for all; those count as 0.
    """
    upstream: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for dag in plan.dags:
        for before, after in dag.edges():
            upstream[dag.dag_id, after].append(before)
    ends: dict[tuple[str, str, str], datetime] = {}
    for row in rows:
        key = (row.dag_id, row.run_id, row.task_id)
        if row.end_date is not None:
            ends[key] = max(ends.get(key, row.end_date), row.end_date)
    delays = []
    for row in rows:
        if row.queued_dttm is None or row.try_number != 1:
            continue
        befores = ((row.dag_id, row.run_id, before) for before in upstream[row.dag_id, row.task_id])
        if ended := [ends[before] for before in befores if before in ends]:
            delays.append(max(0.0, _seconds(row.queued_dttm, max(ended))))
    return delays


def decision_rate(plan: Plan, runs: Iterable[RunRow], rows: Iterable[TaskInstanceRow]) -> float | None:
    """Return how many task instances without upstream were queued per second; None if it cannot be told.

    Nothing but the scheduler's own pace is in it as long as the executor has room for all of them: neither
    tasks nor heartbeats have to end first.
    """
    following = {(dag.dag_id, after) for dag in plan.dags for _, after in dag.edges()}
    queued = [
        row.queued_dttm
        for row in rows
        if row.queued_dttm is not None and row.try_number == 1 and (row.dag_id, row.task_id) not in following
    ]
    started = [run.start_date for run in runs if run.start_date is not None]
    if not queued or not started or max(queued) <= min(started):
        return None
    return len(queued) / _seconds(max(queued), min(started))


def bystander_delays(plan: Plan, rows: Sequence[TaskInstanceRow]) -> list[float]:
    """Return the queue delays in dags without maps, where others have some; else nothing."""
    mapping = {dag.dag_id for dag in plan.dags if any(task.mapped_over for task in dag.tasks)}
    return queue_delays(plan, [row for row in rows if row.dag_id not in mapping]) if mapping else []


def expansion_times(plan: Plan, rows: Sequence[TaskInstanceRow]) -> list[float]:
    """Return for each map the seconds from the end of what it maps over to its first instance being queued.

    All its instances are there by then: an expansion is one transaction.
    """
    over = {(dag.dag_id, task.task_id): task.mapped_over for dag in plan.dags for task in dag.tasks}
    ends = {(row.dag_id, row.run_id, row.task_id): row.end_date for row in rows}
    first: dict[tuple[str, str, str], datetime] = {}
    for row in rows:
        source = over.get((row.dag_id, row.task_id))
        if source is not None and row.queued_dttm is not None:
            key = (row.dag_id, row.run_id, source)
            first[key] = min(first.get(key, row.queued_dttm), row.queued_dttm)
    return [_seconds(queued, end) for key, queued in first.items() if (end := ends.get(key)) is not None]


def close_delays(runs: Iterable[RunRow], rows: Iterable[TaskInstanceRow]) -> list[float]:
    """Return for each run the seconds from its last task's end to its own."""
    last: dict[tuple[str, str], datetime] = {}
    for row in rows:
        if row.end_date is not None:
            key = (row.dag_id, row.run_id)
            last[key] = max(last.get(key, row.end_date), row.end_date)
    return [
        max(0.0, _seconds(run.end_date, last[run.dag_id, run.run_id]))
        for run in runs
        if run.end_date and (run.dag_id, run.run_id) in last
    ]


def percentiles(values: Iterable[float]) -> list[float]:
    """Return the percentiles 0, 1, … 100 of *values* (nearest rank)."""
    ordered = sorted(values)
    return [round(ordered[round(p / 100 * (len(ordered) - 1))], 4) for p in PERCENTILES]


def _percentile_figures(distributions: Mapping[str, Sequence[float]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, points in distributions.items():
        figures |= {f"{name}_p{p}": points[p] for p in (50, 95, 99)}
        figures[f"{name}_max"] = points[100]
    return figures


def _driver(seen: Observation, end: float, count: int) -> dict[str, float]:
    begin = seen.opened.timestamp()
    sums = sum_buckets(seen.counters, begin, end)
    if not sums:
        return {}
    schedulers = len(seen.counters)
    return {
        **{name: sums[name] / count for name in ("statements", "round_trips", "rows", "commits")},
        "database_wait_share": sums["busy_seconds"] / (end - begin) / schedulers,
        "driver_errors": sums["errors"],
        "retries": _stat_total(seen.counters, RETRIES),
        "critical_section_busy": _stat_total(seen.counters, "scheduler.critical_section_busy"),
        **_loop_lag(seen.counters),
    }


def sum_buckets(counters: Iterable[Mapping[str, Any]], begin: float, end: float) -> dict[str, float]:
    """Return the driver's figures of all schedulers between two Unix times, by name."""
    sums: defaultdict[str, float] = defaultdict(float)
    for counter in counters:
        scale = counter["buckets_per_second"]
        for bucket, amounts in counter["buckets"].items():
            if int(begin * scale) <= int(bucket) <= int(end * scale):
                for name, amount in zip(counter["fields"], amounts, strict=True):
                    sums[name] += amount
    return dict(sums)


def _stat_total(counters: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(sum(value for counter in counters for _, value in counter["stats"].get(name, ())))


def _loop_lag(counters: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    lags = [value for c in counters for _, value in c["stats"].get("async_scheduler.loop_lag", ())]
    if not lags:
        return {}
    points = percentiles(lags)
    return {"loop_lag_p99": points[99], "loop_lag_max": points[100]}


def _resources(seen: Observation) -> dict[str, float]:
    figures: dict[str, float] = {"peak_rss": seen.peak_rss_mib, "connections": seen.connections}
    if seen.server:
        figures["deadlocks"] = seen.server["deadlocks"]
        if seen.other_commits is not None:
            ours = seen.other_commits + sum(_commits(counter) for counter in seen.counters)
            figures["server_commits_ratio"] = seen.server["xact_commit"] / ours
    return figures


def _commits(counter: Mapping[str, Any]) -> float:
    """Return the commits that the server will have counted."""
    indexes = [counter["fields"].index(name) for name in ("commits", "hidden_commits")]
    return float(sum(amounts[index] for amounts in counter["buckets"].values() for index in indexes))


def _idle(seconds: float, seen: Observation) -> dict[str, float]:
    begin = seen.opened.timestamp()
    sums = sum_buckets(seen.counters, begin, begin + seconds)
    return {
        "idle_cpu": seen.scheduler_cpu / seconds * 100,
        "idle_statements": sums.get("statements", 0.0) / seconds,
    }
