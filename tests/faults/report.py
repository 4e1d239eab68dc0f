"""Writes the outcomes of scenarios: ``faults.json`` and ``summary.md``."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from tests.faults.running import Outcome


CHECKED = """Checked after each scenario, from the database's own record of every change and from what
workers were given: end states as the stock scheduler leaves them; each try given and started
once, after it was queued; no step of a state that the rules do not know; no limit of pools,
dags, tasks and runs exceeded at any moment; no more tries than faults account for; nothing
queued in the name of a job that is declared dead; audit rows, callbacks of runs and tasks,
asset events and the runs they ask for, none lost or doubled; no connection, lock or process
left; every scheduler ended by a signal or with a clear message and a code."""


def earlier(folder: Path) -> list[Outcome]:
    """Return the outcomes that *folder* holds already."""
    from tests.faults.running import Outcome

    file = folder / "faults.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text())["outcomes"]
    return [Outcome(**{**one, "faults": Counter(one["faults"])}) for one in found]


def add(outcome: Outcome, folder: Path, workload: str) -> None:
    """Add one to what *folder* holds; other processes may do so at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        write([*earlier(folder), outcome], folder, workload)


def write(outcomes: Sequence[Outcome], folder: Path, workload: str) -> None:
    """Write both files into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    faults = sum((outcome.faults for outcome in outcomes), Counter())
    record: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "workload": workload,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "faults": sum(faults.values()),
        "faults_by_kind": dict(faults.most_common()),
        "task_instances": sum(outcome.task_instances for outcome in outcomes),
        "workloads_handed_over": sum(outcome.workloads for outcome in outcomes),
        "violations": sum(len(outcome.violations) for outcome in outcomes),
        "outcomes": [_recorded(outcome) for outcome in outcomes],
    }
    (folder / "faults.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "summary.md").write_text(_summary(record, outcomes))


def _recorded(outcome: Outcome) -> dict[str, Any]:
    """Return it as JSON holds it. (``asdict`` makes a counter of pairs out of a counter.)"""
    return {each.name: getattr(outcome, each.name) for each in fields(outcome)}


def _summary(record: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    kinds = record["faults_by_kind"]
    lines = [
        "# Faults injected into real schedulers and servers",
        "",
        (
            f"Written by `make test-faults` or `python -m tests.faults` at {record['created']}, "
            f"on {record['cores']} cores, Python {record['python']}, PostgreSQL 18; "
            f"workload `{record['workload']}`."
        ),
        "",
        (
            f"**{record['faults']} faults, {record['task_instances']} task instances, "
            f"{record['workloads_handed_over']} workloads handed over, {record['violations']} violations.**"
        ),
        "",
        "| fault | times |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in kinds.items()),
        "",
        "| scenario | algorithm | seed | seconds | faults | TIs | schedulers | resets | violations |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(outcome) for outcome in outcomes),
        "",
        "A reset is a task instance that a living scheduler took from a dead one and put back: one more try.",
        "",
        CHECKED,
        "",
        "## Figures",
        "",
        *(f"- {one.scenario}, {one.algorithm}: {_figures(one)}" for one in outcomes),
        "",
    ]
    found = [f"- {one.scenario}, {one.algorithm}: {line}" for one in outcomes for line in one.violations]
    return "\n".join([*lines, *(["## Violations", "", *found, ""] if found else [])])


def _row(one: Outcome) -> str:
    cells = (
        *(one.scenario, one.algorithm, one.seed, one.seconds, sum(one.faults.values())),
        *(one.task_instances, one.schedulers, one.resets, len(one.violations)),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _figures(one: Outcome) -> str:
    return "; ".join(f"{name} {value}" for name, value in one.figures.items())
