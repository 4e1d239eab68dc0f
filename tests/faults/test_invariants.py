"""The checker finds what is planted: a run without a violation means that there was something to find it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from poc_bench.database.rows import RunRow, TaskInstanceRow
from poc_bench.plan import DagSpec, Plan, TaskSpec
from tests.faults.audit import Change
from tests.faults.consequences import CallbackRow, Consequences, EventRow, LogRow
from tests.faults.invariants import Evidence, Given, shares, violations

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = Plan(dags=(DagSpec("d", (TaskSpec("t", pool="narrow"),), max_active_runs=1),), pools={"narrow": 1})
KEY = "d/r/t/-1"


def _ti(run: str = "r") -> TaskInstanceRow:
    return TaskInstanceRow(
        **dict.fromkeys(TaskInstanceRow.__dataclass_fields__)  # type: ignore[arg-type]
        | {"dag_id": "d", "run_id": run, "task_id": "t", "map_index": -1, "state": "success"}
        | {"try_number": 1, "pool": "narrow", "pool_slots": 1}
    )


def _change(second: int, was: str | None, became: str | None, **more: Any) -> Change:
    known = {
        "kind": "ti",
        "row_key": KEY,
        "try_number": 1,
        "was_id": "1",
        "is_id": "1",
        "job": 7,
        "who": "us",
    }
    return Change(at=NOW + timedelta(seconds=second), was=was, became=became, **{**known, **more})


LIFE = [
    _change(0, "queued", "running", kind="run", row_key="d/r"),
    _change(1, None, "scheduled"),
    _change(2, "scheduled", "queued"),
    _change(3, "queued", "running"),
    _change(4, "running", "success"),
    _change(5, "running", "success", kind="run", row_key="d/r"),
]
GIVEN = [Given(event, 0.0, 42, "1", "d", "t", "r", -1, 1) for event in ("given", "started")]
GOOD = Evidence(
    plan=PLAN,
    changes=LIFE,
    given=GIVEN,
    runs=[RunRow("d", "r", "success", None, NOW, None, None)],
    task_instances=[_ti()],
    earlier_tries=(),
    samples=[[_ti()]],
    oracle={"d/r": "success", KEY: "success, try 1"},
)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (replace(GOOD, oracle={"d/r": "failed", KEY: "success, try 1"}), "end state: d/r: failed"),
        (replace(GOOD, given=[*GIVEN, GIVEN[0]]), "given to workers 2 times: d/t/r/-1/1"),
        (replace(GOOD, given=[*GIVEN, GIVEN[1]._replace(id="2")]), "started 2 times"),
        (replace(GOOD, given=[GIVEN[0]._replace(id="9")]), "given but never queued"),
        (
            replace(GOOD, changes=[*LIFE, _change(6, "success", "scheduled")]),
            "went from success to scheduled",
        ),
        (replace(GOOD, changes=[*LIFE, _change(6, "running", None)]), "went from running to None"),
        (
            replace(GOOD, changes=[*LIFE, _change(6, "success", "running", kind="run", row_key="d/r")]),
            "run d/r went from success to running",
        ),
        (replace(GOOD, samples=[[_ti(), _ti("other")]]), "2 in a sample, the limit is 1"),
        (
            replace(
                GOOD,
                changes=[*LIFE[:4], _change(3, "scheduled", "queued", row_key="d/o/t/-1"), *LIFE[4:]],
                task_instances=[_ti(), _ti("o")],
                oracle={**GOOD.oracle, "d/o/t/-1": "success, try 1"},
            ),
            "limit: pool narrow: 2 at once",
        ),
        (
            replace(
                GOOD,
                changes=[*LIFE[:4], _change(3, "queued", "running", kind="run", row_key="d/o"), *LIFE[4:]],
            ),
            "limit: max_active_runs d: 2 at once",
        ),
        (
            replace(GOOD, changes=[_change(-9, "running", "failed", kind="job", row_key="7"), *LIFE]),
            "queued by job 7, failed since 0:00:11",
        ),
        (
            replace(GOOD, changes=[*LIFE, _change(9, "failed", "running", kind="job", row_key="7")]),
            "job 7 went from failed to running",
        ),
        (replace(GOOD, task_instances=[replace(_ti(), try_number=2)]), "has try 2, 1 expected"),
        (replace(GOOD, leftovers=["a connection is left: x"]), "a connection is left"),
        (replace(GOOD, endings=["scheduler a ended with code 3 and no clear message"]), "ended with code 3"),
    ],
)
def test_what_is_planted_is_found(planted: Evidence, found: str) -> None:
    assert any(found in line for line in violations(planted)), violations(planted)


KILLED = [
    *LIFE[:4],
    _change(4, "running", "up_for_retry", is_id="2"),
    *(replace(one, at=one.at + timedelta(seconds=5), is_id="2", try_number=2) for one in LIFE[2:]),
]
LEFT = Consequences(
    called=frozenset({"d"}),
    called_tasks=frozenset({("d", "t")}),
    producer="d",
    logs=[LogRow("state mismatch", KEY, 1), LogRow("failed", KEY, 1)],
    callbacks=[CallbackRow("run", "d/r", None, False), CallbackRow("task", KEY, 1, False)],
    events=[EventRow(1, NOW, "r", "asset run")],
    windows=[("asset run", NOW + timedelta(seconds=1))],
)
PUT = Change(NOW, "bench", "queue", "consumer", None, None, None, None, "now", None)
WITH_CONSEQUENCES = replace(
    GOOD,
    changes=[PUT, *KILLED],
    task_instances=[replace(_ti(), try_number=2)],
    oracle={"d/r": "success", KEY: "success, try 2"},
    consequences=LEFT,
)


def test_nothing_is_found_where_everything_has_its_consequences() -> None:
    assert violations(WITH_CONSEQUENCES) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ({"logs": LEFT.logs[1:]}, "audit row lost: 'state mismatch' of d/r/t/-1, try 1"),
        ({"logs": LEFT.logs[:1]}, "audit row lost: 'failed' of d/r/t/-1, try 1"),
        ({"logs": [*LEFT.logs, LEFT.logs[0]]}, "audit row doubled: 2 × 'state mismatch'"),
        ({"logs": [*LEFT.logs, LogRow("state mismatch", KEY, 2)]}, "audit row without a change"),
        ({"callbacks": LEFT.callbacks[1:]}, "callback of a run lost: d/r, False: 0 of 1"),
        ({"callbacks": [*LEFT.callbacks, LEFT.callbacks[0]]}, "callback of a run doubled: d/r"),
        (
            {"callbacks": [LEFT.callbacks[0]._replace(failure=True), LEFT.callbacks[1]]},
            "callback of a run lost",
        ),
        ({"callbacks": LEFT.callbacks[:1]}, "callback of a task lost: d/r/t/-1, 1: 0 of 1"),
        ({"callbacks": [*LEFT.callbacks, LEFT.callbacks[1]]}, "callback of a task doubled"),
        ({"queued": 1}, "asset queue: 1 rows are left"),
        (
            {"windows": [], "events": [LEFT.events[0]._replace(consumed_by=None)]},
            "1 times a run was asked for, 0",
        ),
        ({"events": []}, "asset event: 0 were made by r"),
        ({"events": [*LEFT.events, LEFT.events[0]._replace(id=2)]}, "asset event: 2 were made by r"),
        ({"events": [LEFT.events[0]._replace(consumed_by=None)]}, "was consumed by None, due by asset run"),
        ({"events": [*LEFT.events, LEFT.events[0]]}, "was consumed by asset run, asset run"),
    ],
)
def test_a_lost_or_doubled_consequence_is_found(planted: dict[str, Any], found: str) -> None:
    seen = replace(WITH_CONSEQUENCES, consequences=replace(LEFT, **planted))
    assert any(found in line for line in violations(seen)), violations(seen)


def _declared_dead(second: int) -> Change:
    return _change(second, "running", "failed", kind="job", row_key="7", job=None)


def _renewed(second: int) -> Change:
    return _change(second, "failed", "running", kind="job", row_key="7", job=None)


def test_a_job_may_be_renewed_before_its_first_work() -> None:
    seen = replace(GOOD, changes=[_declared_dead(-9), _renewed(-8), *LIFE])
    assert violations(seen) == []


def test_a_stock_scheduler_goes_on_when_it_is_declared_dead() -> None:
    dead, back = _declared_dead(8), _renewed(9)
    seen = replace(GOOD, changes=[*LIFE, dead, back])
    assert len(violations(seen)) == 1
    assert violations(replace(seen, stock=frozenset({42}))) == []


def test_a_reset_allows_one_more_try() -> None:
    reset = _change(3, "queued", None, is_id="2")
    again = [replace(one, at=one.at + timedelta(seconds=5)) for one in LIFE[1:]]
    seen = replace(GOOD, changes=[*LIFE[:3], reset, *again], task_instances=[replace(_ti(), try_number=2)])
    assert violations(seen) == []


def test_shares() -> None:
    given = [GIVEN[0], GIVEN[0]._replace(scheduler=43), GIVEN[0]._replace(scheduler=43), GIVEN[1]]
    assert shares(given) == {42: pytest.approx(1 / 3), 43: pytest.approx(2 / 3)}
