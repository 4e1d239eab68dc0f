"""``make demo``: run every DAG of ``config/dev/dags`` to its declared end, and judge."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from async_scheduler.devcluster.cluster import Cluster, ClusterOptions, running_cluster
from async_scheduler.devcluster.expectations import (
    Expectation,
    Verdict,
    judge,
    read_expectations,
    undeclared,
)
from async_scheduler.devcluster.problem import ClusterProblem

if TYPE_CHECKING:
    from async_scheduler.devcluster.screen import Screen

PARSE_TIMEOUT = 600.0
POLL_INTERVAL = 1.5


def run_demo(options: ClusterOptions, screen: Screen, timeout: float) -> bool:
    """Start a cluster, run its DAGs, show the result, stop; return whether every run ended as declared.

    *timeout* is how many seconds the runs may take; then they are judged as they are.

    :raises ClusterProblem: when the cluster cannot start or go on.
    """
    expectations = read_expectations(options.config / "expected_runs.toml")
    with running_cluster(options, screen) as cluster:
        screen.note(f"The UI, while it lasts: {cluster.url}")
        with screen.step("DAGs parsed, switched on and triggered"):
            wait_for_dags(cluster, expectations)
            start_runs(cluster, expectations)
        verdicts = watch(cluster, expectations, screen, timeout)
    screen.results(verdicts, options.data.logs)
    good = all(verdict.as_expected for verdict in verdicts)
    screen.say(
        "[bold green]Every run ended as expected.[/bold green]"
        if good
        else "[bold red]Not every run ended as expected.[/bold red]"
    )
    return good


def wait_for_dags(cluster: Cluster, expectations: tuple[Expectation, ...]) -> None:
    """Return when all expected DAGs are parsed.

    :raises ClusterProblem: on an import error, a DAG nobody declared, or when it takes too long.
    """
    declared = {expectation.dag_id for expectation in expectations}
    give_up = time.monotonic() + PARSE_TIMEOUT
    while missing := declared - cluster.api.dag_ids():
        if errors := cluster.api.import_errors():
            raise ClusterProblem(
                f"A DAG file cannot be imported: {errors[0]}", "Mend the file and try again."
            )
        if time.monotonic() > give_up:
            raise ClusterProblem(
                f"After {PARSE_TIMEOUT:g} s these DAGs are not parsed: {', '.join(sorted(missing))}.",
                f"See {cluster.data.logs / 'dag-processor.log'}.",
            )
        cluster.processes.wait(POLL_INTERVAL)
    if surplus := undeclared(expectations, cluster.api.dag_ids()):
        raise ClusterProblem(
            f"No expected end is declared for: {', '.join(sorted(surplus))}.",
            "Add each to config/dev/expected_runs.toml.",
        )


def start_runs(cluster: Cluster, expectations: tuple[Expectation, ...]) -> None:
    """Switch every DAG on, then trigger those that nothing else starts."""
    for expectation in expectations:
        cluster.api.unpause(expectation.dag_id)
    for expectation in expectations:
        if expectation.start == "trigger":
            for _ in range(expectation.runs):
                cluster.api.trigger(expectation.dag_id)


def watch(
    cluster: Cluster, expectations: tuple[Expectation, ...], screen: Screen, timeout: float
) -> list[Verdict]:
    """Show how the runs get on until all have ended or *timeout* seconds have passed; return the verdicts.

    :raises ClusterProblem: as soon as a process of the cluster has ended.
    """
    give_up = time.monotonic() + timeout
    with screen.progress() as show:
        while True:
            # Runs first: task instances read after their run has ended no longer change.
            runs = cluster.api.runs()
            verdicts = judge(expectations, runs, cluster.api.task_instances())
            show(verdicts)
            if all(verdict.ended for verdict in verdicts) or time.monotonic() > give_up:
                return verdicts
            cluster.processes.wait(POLL_INTERVAL)
