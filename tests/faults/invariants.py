"""What must hold whatever has happened. Pure: from records to a list of violations, one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from poc_bench import correctness
from tests.faults import consequences
from tests.faults.consequences import Consequences
from tests.faults.work import CONSUMER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poc_bench.database.rows import RunRow, TaskInstanceRow, TryRow
    from poc_bench.observation import Observation
    from poc_bench.plan import Plan
    from tests.faults.audit import Change

TI_STEPS: dict[str | None, frozenset[str | None]] = {
    None: frozenset({"scheduled", "upstream_failed", "skipped", "removed"}),
    # Back to none or scheduled only from the hands of the dead, see _step_allowed.
    "scheduled": frozenset({"queued", "failed"}),
    "queued": frozenset({"running", "failed", "up_for_retry", None, "scheduled"}),
    "running": frozenset({"success", "failed", "skipped", "up_for_retry", None}),
    "up_for_retry": frozenset({"scheduled", "upstream_failed"}),
}
"""From which state a task instance may come into which. What is not named has ended for good."""
RUN_STEPS = {("queued", "running"), ("running", "success"), ("running", "failed")}
FENCE_GRACE = timedelta(seconds=2)
"""A commit that had looked before the job was marked may come so much later: the lease and a slow commit."""
_Scope = tuple[str, ...]
_Limits = dict[_Scope, int]
MARGIN = 10
"""How many violations of one kind are listed in full."""


class Given(NamedTuple):
    """A line of the workers' record."""

    event: str
    at: float
    scheduler: int
    id: str
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen of one database under faults.

    ``leftovers`` – what is still there after the schedulers have ended, in words; ``samples`` – the rows that
    held slots at each sampled moment; ``endings`` – how schedulers ended that nobody killed.
    """

    plan: Plan
    changes: Sequence[Change]
    given: Sequence[Given]
    runs: Sequence[RunRow]
    task_instances: Sequence[TaskInstanceRow]
    earlier_tries: Sequence[TryRow]
    samples: Sequence[list[TaskInstanceRow]]
    oracle: correctness.EndState
    leftovers: Sequence[str] = ()
    endings: Sequence[str] = ()
    stock: frozenset[int] = frozenset()
    """Process ids of stock schedulers, which go on when others have declared them dead (#57618)."""
    consequences: Consequences = field(default_factory=Consequences)


def violations(seen: Evidence) -> list[str]:
    """Return what must not have happened."""
    checks = (
        _end_states,
        _given_once,
        _steps,
        _limits,
        _fenced,
        _tries,
        lambda seen: consequences.violations(seen.consequences, seen.changes, seen.runs),
        lambda seen: iter(seen.leftovers),
        lambda seen: iter(seen.endings),
    )
    found: list[str] = []
    for check in checks:
        lines = list(check(seen))
        found += lines[:MARGIN]
        if len(lines) > MARGIN:
            found.append(f"... and {len(lines) - MARGIN} more of the last kind")
    return found


def _states(end_state: correctness.EndState) -> correctness.EndState:
    """Leave the numbers of tries out: each reset of an abandoned task instance makes one more."""
    return {name: state.partition(",")[0] for name, state in end_state.items()}


def _end_states(seen: Evidence) -> Iterator[str]:
    ours = correctness.end_state(seen.runs, seen.task_instances)
    for line in correctness.differences(_compared(seen.oracle), _compared(ours)):
        yield f"end state: {line}"
    for name, state in _states(ours).items():
        if name.startswith(f"{CONSUMER}/") and state != "success":
            yield f"end state: {name}: {state}"


def _compared(end_state: correctness.EndState) -> correctness.EndState:
    """Leave out the runs that asset events start: how many events one run consumes depends on the moment."""
    return {name: state for name, state in _states(end_state).items() if not name.startswith(f"{CONSUMER}/")}


def _given_once(seen: Evidence) -> Iterator[str]:
    given = Counter(one.id for one in seen.given if one.event == "given")
    names = {one.id: "/".join(map(str, one[4:])) for one in seen.given}
    yield from (f"given to workers {count} times: {names[i]}" for i, count in given.items() if count > 1)
    started = Counter(one[4:] for one in seen.given if one.event == "started")
    for key, count in started.items():
        if count > 1:
            yield f"started {count} times: {'/'.join(map(str, key))}"
    queued = {change.is_id for change in seen.changes if change.became == "queued"}
    yield from (f"given but never queued: {names[i]}" for i in given if i not in queued)


def _steps(seen: Evidence) -> Iterator[str]:
    for change in seen.changes:
        if change.kind == "run" and (change.was, change.became) not in RUN_STEPS:
            yield f"run {change.row_key} went from {change.was} to {change.became} by {change.who}"
        if change.kind == "ti" and not _step_allowed(change):
            yield f"{change.row_key} went from {change.was} to {change.became} by {change.who}"


def _step_allowed(change: Change) -> bool:
    if change.was == change.became:
        return change.was_id != change.is_id  # a retry's new identity, written after its state
    if change.became is None:
        return change.reset and change.was in ("queued", "running")
    return change.became in TI_STEPS.get(change.was, frozenset())


def _limits(seen: Evidence) -> Iterator[str]:
    """At each sampled moment, and at every moment by the server's own record of changes."""
    workers: dict[str, Any] = {"run_twice": (), "refused": 0, "submitted_twice": 0}
    observed = SimpleNamespace(
        workers=workers, task_instances=(), earlier_tries=(), samples=seen.samples, runs=()
    )
    yield from (f"limit: {line}" for line in correctness.violations(seen.plan, cast("Observation", observed)))
    limit_of = correctness.limits(seen.plan)
    held = _holds(seen, limit_of)
    for (limit, scope), holds in held.items():
        if (peak := correctness.most_at_once(holds)) > limit_of[limit]:
            yield f"limit: {limit[0]} {'/'.join(scope)}: {peak} at once, the limit is {limit_of[limit]}"


def _holds(seen: Evidence, limit_of: _Limits) -> dict[tuple[_Scope, _Scope], list[correctness.Hold]]:
    """Return what was held of each limit from when to when. Written later than taken, earlier than freed."""
    rows = {f"{row.dag_id}/{row.run_id}/{row.task_id}/{row.map_index}": row for row in seen.task_instances}
    held: defaultdict[tuple[_Scope, _Scope], list[correctness.Hold]] = defaultdict(list)
    limit_of |= {("max_active_runs", dag.dag_id): dag.max_active_runs for dag in seen.plan.dags}
    for kind, key, begin, end in _stays(seen.changes):
        if kind == "run":
            name = ("max_active_runs", key.partition("/")[0])
            held[name, name[1:]].append((begin, end, 1))
        elif row := rows.get(key):
            identity = (row.pool, row.dag_id, row.run_id, row.task_id)
            for limit, scope, in_slots in correctness._scopes(limit_of, *identity):
                held[limit, scope].append((begin, end, row.pool_slots if in_slots else 1))
    return held


_OCCUPYING = {"ti": ("queued", "running"), "run": ("running",)}


def _stays(changes: Sequence[Change]) -> Iterator[tuple[str, str, datetime, datetime]]:
    """Yield (kind, row, from, until) for each stay of a row in states that count against limits."""
    since: dict[tuple[str, str], datetime] = {}
    for change in changes:
        occupies = change.became in _OCCUPYING.get(change.kind, ())
        row = change.kind, change.row_key
        if occupies:
            since.setdefault(row, change.at)
        elif row in since:
            yield *row, since.pop(row), change.at
    for row, begin in since.items():
        yield *row, begin, changes[-1].at


def _fenced(seen: Evidence) -> Iterator[str]:
    """Nothing is queued in the name of a job that others have marked failed.

    A job that is marked while its executors start, before it has queued anything, may be renewed.
    """
    dead: dict[str, datetime] = {}
    worked: set[str] = set()
    stock = _stock_jobs(seen)
    for change in seen.changes:
        if change.row_key in stock or str(change.job) in stock:
            continue
        if change.kind == "job" and change.was == "failed" and change.row_key not in worked:
            dead.pop(change.row_key, None)
            continue
        if change.kind == "ti" and change.became == "queued":
            worked.add(str(change.job))
        if change.kind == "job" and change.became == "failed":
            dead.setdefault(change.row_key, change.at)
        if change.kind == "job" and change.was == "failed":
            yield f"job {change.row_key} went from failed to {change.became} by {change.who}"
        if change.kind == "ti" and change.became == "queued":
            since = dead.get(str(change.job))
            if since is not None and change.at > since + FENCE_GRACE:
                yield f"{change.row_key} queued by job {change.job}, failed since {change.at - since}"


def _stock_jobs(seen: Evidence) -> set[str]:
    """Return the jobs in whose name stock schedulers handed work over."""
    givers = {one.id: one.scheduler for one in seen.given if one.event == "given"}
    return {str(change.job) for change in seen.changes if givers.get(change.is_id or "") in seen.stock}


def _tries(seen: Evidence) -> Iterator[str]:
    """A task instance has no more tries than the oracle's and one for each time it was reset."""
    resets = Counter(change.row_key for change in seen.changes if change.kind == "ti" and change.reset)
    for row in seen.task_instances:
        name = f"{row.dag_id}/{row.run_id}/{row.task_id}/{row.map_index}"
        undisturbed = "success, try 1" if row.dag_id == CONSUMER else seen.oracle.get(name, ", try 0")
        most = int(undisturbed.rpartition(" ")[2]) + resets[name]
        if row.try_number > most:
            yield f"{name} has try {row.try_number}, {most} expected at most"


def shares(given: Sequence[Given]) -> dict[int, float]:
    """Return which share of the workloads each scheduler (by process id) handed over."""
    counts: defaultdict[int, int] = defaultdict(int)
    for one in given:
        if one.event == "given":
            counts[one.scheduler] += 1
    total = sum(counts.values()) or 1
    return {scheduler: count / total for scheduler, count in counts.items()}
