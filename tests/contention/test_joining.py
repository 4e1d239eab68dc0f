"""Backends and times become routines, statements and roots."""

from __future__ import annotations

import gzip
import lzma
from typing import TYPE_CHECKING

import msgspec
import pytest

from async_scheduler.contention.building import build, load
from async_scheduler.contention.joining import Joiner, LedgerIndex
from async_scheduler.contention.matrix import POOL_HOLDERS, holder_label, pairs
from async_scheduler.contention.reading import UnreadableTrace, read_trace
from async_scheduler.contention.walltime import union_ns
from async_scheduler.measure.events import Header, Party, StatementRun, StatementText, Wait
from tests.contention.traces import MS, UPDATE, iteration, row_wait, transaction, two_routines, write_trace

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = {
    "update": UPDATE,
    "other": StatementText("other", "UPDATE slot_pool SET x = $1", True),
    "read": StatementText("read", "SELECT 1", False),
}


def join(*waits: Wait, transactions: list[object] | None = None) -> list[Wait]:
    made = transactions or [
        transaction("schedule", 0, 100, number=1, pid=11),
        transaction("start", 10, 100, number=2, pid=12),
        transaction("enqueue", 20, 100, number=3, pid=13),
    ]
    return Joiner(made, dict(TEXTS), {99: "dag processor"}).join(list(waits))  # type: ignore[arg-type]


def test_backend_that_serves_several_routines_is_told_by_time() -> None:
    index = LedgerIndex(transaction(f"r{n}", n * 20, n * 20 + 18, number=n, pid=5) for n in range(200))
    for n in range(200):
        found = index.find(5, (n * 20 + 4) * MS, (n * 20 + 9) * MS)
        assert found is not None
        assert found.routine == f"r{n}"
    assert index.find(5, 9_000 * MS, 9_001 * MS) is None
    assert index.find(6, 0, MS) is None


def test_those_behind_a_waiter_are_resolved_to_the_root() -> None:
    first, second = join(
        row_wait(Party(pid=12), Party(pid=11), 30, 90), row_wait(Party(pid=13), Party(pid=12), 40, 90)
    )
    assert [w.root_blocker and w.root_blocker.routine for w in (first, second)] == ["schedule", "schedule"]
    assert [p.routine for p in second.immediate_blockers] == ["start"]


def test_connection_that_has_passed_on_to_another_routine_held_for_the_first() -> None:
    passed_on = [
        transaction("schedule", 0, 40, number=1, pid=11),
        transaction("enqueue", 45, 100, number=2, pid=11),
        transaction("start", 10, 100, number=3, pid=12),
    ]
    (wait,) = join(row_wait(Party(pid=12), Party(pid=11), 30, 90), transactions=list(passed_on))
    assert wait.root_blocker is not None
    assert wait.root_blocker.routine == "schedule"


def test_cycle_of_waits_has_no_root() -> None:
    one, two = row_wait(Party(pid=12), None, 30, 90), row_wait(Party(pid=13), None, 30, 90)
    first, _ = join(
        msgspec.structs.replace(one, immediate_blockers=[Party(pid=13)]),
        msgspec.structs.replace(two, immediate_blockers=[Party(pid=12)]),
    )
    assert first.root_blocker is None


def test_holders_statement_is_the_one_that_took_the_lock_on_that_table() -> None:
    holder = transaction("enqueue", 0, 100, number=1, pid=11)
    holder.statements[:] = [
        StatementRun("read", 0, MS, 1),
        StatementRun("other", 2 * MS, MS, 1),
        StatementRun("update", 5 * MS, MS, 1),
        StatementRun("read", 50 * MS, 40 * MS, 1),
    ]
    (wait,) = join(row_wait(Party(pid=99), Party(pid=11), 60, 90), transactions=[holder])
    assert wait.root_blocker is not None
    assert wait.root_blocker.statement == "update"
    assert wait.root_blocker.hold_ns == 55 * MS
    assert wait.root_blocker.state == "active"
    assert wait.waiter.process == "dag processor"


def test_one_blocked_statement_counts_once_however_many_waits_it_makes() -> None:
    made = join(
        row_wait(Party(pid=12), Party(pid=11), 20, 40),
        row_wait(Party(pid=12), Party(pid=11), 40, 60),
    )
    (pair,) = pairs(made)
    assert (pair.count, pair.total_ns, pair.max_ns) == (1, 40 * MS, 40 * MS)


@pytest.mark.parametrize(
    ("routines", "blamed"), [(["a", "a"], "a"), (["a", "b"], POOL_HOLDERS), (["a"], "another client")]
)
def test_pool_slots_are_blamed_on_all_who_hold_one(routines: list[str], blamed: str) -> None:
    wait = Wait(
        what="pool",
        t_start=0,
        t_end=MS,
        exactness="exact",
        waiter=Party(routine="w"),
        source="client",
        immediate_blockers=[Party(routine=name) for name in routines],
    )
    assert holder_label(wait) == blamed


def test_overlapping_times_are_not_counted_twice() -> None:
    assert union_ns([(0, 10), (5, 12), (20, 21), (6, 7)]) == 13
    assert union_ns([]) == 0


def test_report_of_a_made_up_second(tmp_path: Path) -> None:
    report = build(load(write_trace(tmp_path / "trace", *two_routines())))
    start = next(r for r in report.routines if r.routine == "start")
    assert start.categories["database lock"].middle == 40 * MS
    assert start.categories["network and execution"].middle == 50 * MS
    assert start.categories["pool"].middle == 10 * MS
    assert not start.split
    assert {(p.waiter, p.holder) for p in report.pairs} == {("start", "schedule"), ("API server", "schedule")}
    assert [(p.waiter, p.holder) for p in report.victims] == [("API server", "schedule")]
    assert [c.refused for c in report.skips if c.routine == "start"] == [1]
    assert report.failures[0].parties == ["schedule", "start"]
    assert report.quality.attributed_share == 1.0


def test_time_that_does_not_add_up_is_unexplained(tmp_path: Path) -> None:
    measured = iteration("r", 0, 100, statement_ns=60 * MS)
    stepped = msgspec.structs.replace(measured, cpu_ns=10 * MS, loop_ns=5 * MS)
    report = build(load(write_trace(tmp_path / "trace", stepped)))
    (routine,) = report.routines
    assert routine.split
    assert routine.categories["unexplained"].middle == (100 - 60 - 10 - 5 - 1) * MS


def test_trace_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    (path,) = write_trace(tmp_path / "trace", *two_routines()).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 12])
    trace = read_trace(path.parent)
    assert trace.truncated == [path]
    assert trace.headers


def test_trace_packed_to_be_kept_is_read_like_any_other(tmp_path: Path) -> None:
    (path,) = write_trace(tmp_path / "trace", *two_routines()).iterdir()
    before = read_trace(path.parent)
    with lzma.open(path.with_suffix(".xz"), "wb") as packed:
        packed.write(gzip.decompress(path.read_bytes()))
    path.unlink()
    assert read_trace(path.parent) == before


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTrace, match="holds no trace"):
        read_trace(tmp_path)
    (path,) = write_trace(tmp_path / "trace").iterdir()
    whole = path.read_bytes()
    path.write_bytes(b"not gzip")
    with pytest.raises(UnreadableTrace, match=f"{path.name} is damaged"):
        read_trace(path.parent)
    path.with_name("another.0001.jsonl.gz").write_bytes(whole)
    assert read_trace(path.parent).truncated == [path]


def test_another_version_is_refused(tmp_path: Path) -> None:
    future = Header(process="p", host="h", pid=1, level="l", wall_ns=0, monotonic_ns=0, version=99)
    from async_scheduler.measure.writer import Writer

    Writer(tmp_path, "p", lambda _: future).close()
    with pytest.raises(UnreadableTrace, match="version 99"):
        read_trace(tmp_path)
