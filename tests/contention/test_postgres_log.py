"""The server's JSON log: waits, deadlocks, names."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from async_scheduler.contention.postgres_log import LoggedWait, read_log, wall_ns
from async_scheduler.contention.tables import main_table
from poc_bench.contention import server_log

if TYPE_CHECKING:
    from pathlib import Path

WAITING = "process 7 still waiting for ShareLock on transaction 771 after 1.050 ms"
HOLDERS = "Processes holding the lock: 5, 6. Wait queue: 7."


def record(message: str, at: str = "10.050", pid: int = 7, **more: object) -> dict[str, object]:
    return {
        "timestamp": f"2026-11-20 09:26:{at} UTC",
        "pid": pid,
        "dbname": "airflow",
        "message": message,
        **more,
    }


def written(folder: Path, *records: object, name: str = "server.json") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def waits(folder: Path, *records: object) -> list[LoggedWait]:
    return read_log([written(folder, *records)]).waits


def test_wait_has_exact_length_holders_and_table(tmp_path: Path) -> None:
    (wait,) = waits(
        tmp_path,
        record(WAITING, "10.002", detail=HOLDERS, statement="UPDATE dag_run SET x = $1"),
        record(
            "process 7 acquired ShareLock on transaction 771 after 49.500 ms",
            context='while updating tuple (0,1) in relation "task_instance"',
            application_name="api server",
        ),
    )
    assert (wait.end - wait.start, wait.holders) == (49_500_000, (5, 6))
    assert (wait.relation, wait.kind, wait.ending) == ("task_instance", "db_row", "acquired")
    assert wait.application == "api server"


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("ExclusiveLock on tuple (6,23) of relation 16390 of database 5", "db_row"),
        ("AccessExclusiveLock on relation 16390 of database 5", "db_relation"),
        ("ExclusiveLock on advisory lock [5,0,77,1]", "db_advisory"),
    ],
)
def test_kind_of_lock(tmp_path: Path, what: str, kind: str) -> None:
    (wait,) = waits(
        tmp_path, record(f"process 7 acquired {what} after 2.000 ms", statement="UPDATE job SET x=1")
    )
    assert (wait.kind, wait.relation) == (kind, "job")


def test_wait_that_never_ends_in_the_log_is_unfinished(tmp_path: Path) -> None:
    (wait,) = waits(tmp_path, record(WAITING, detail=HOLDERS))
    assert wait.ending == "unfinished"


def test_deadlock_has_both_statements(tmp_path: Path) -> None:
    detail = (
        "Process 7 waits for ShareLock on transaction 1; blocked by process 8.\n"
        "Process 8 waits for ShareLock on transaction 2; blocked by process 7.\n"
        "Process 7: UPDATE a SET x = $1\nProcess 8: UPDATE b SET x = $1"
    )
    path = written(
        tmp_path, record("deadlock detected", detail=detail, error_severity="ERROR", state_code="40P01")
    )
    (deadlock,) = read_log([path]).deadlocks
    assert deadlock.victim == 7
    assert deadlock.statements == {7: "UPDATE a SET x = $1", 8: "UPDATE b SET x = $1"}


def test_who_never_waits_is_named_by_the_connection(tmp_path: Path) -> None:
    message = "connection authorized: user=airflow database=airflow application_name=dag processor"
    assert read_log([written(tmp_path, record(message, pid=9))]).applications == {9: "dag processor"}


def test_other_databases_and_broken_lines_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, record(WAITING, detail=HOLDERS), {"nothing": 1})
    with path.open("a") as file:
        file.write('{"timestamp": "2026-11-2')
    assert len(read_log([path]).waits) == 1
    assert read_log([path], database="other").waits == []


def test_time_zones() -> None:
    assert wall_ns("1970-01-01 00:00:01.250 UTC") == 1_250_000_000
    assert wall_ns("1970-01-01 02:00:01.250 +0200") == 1_250_000_000
    with pytest.raises(ValueError, match="CET"):
        wall_ns("1970-01-01 02:00:01.250 CET")


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE task_instance SET x = 1", "task_instance"),
        ('DELETE FROM "public.log" WHERE x', "log"),
        ("SELECT a FROM dag_run JOIN dag ON x FOR NO KEY UPDATE OF dag SKIP LOCKED", "dag"),
        ("SELECT 1 FROM slot_pool FOR UPDATE", "slot_pool"),
        ("SELECT pg_advisory_xact_lock(1)", None),
        ("WITH u AS (UPDATE task_instance SET x = 1 RETURNING id) SELECT id FROM u", "task_instance"),
        ("WITH a AS (SELECT id FROM dag FOR UPDATE OF dag) UPDATE dag_run SET x = 1 FROM a", "dag_run"),
    ],
)
def test_table_of_a_statement(statement: str, table: str | None) -> None:
    assert main_table(statement) == table


def test_taking_a_log_keeps_what_is_read_and_no_values(tmp_path: Path) -> None:
    old = record(WAITING, "09.000", detail=HOLDERS)
    path = written(tmp_path, old)
    since = server_log.positions([path])
    plan = {
        "Query Text": "SELECT 'secret' FROM t FOR UPDATE SKIP LOCKED",
        "Plan": {
            "Node Type": "LockRows",
            "Actual Rows": 1,
            "Actual Loops": 1,
            "Output": ["secret"],
            "Plans": [
                {"Node Type": "Sort", "Parent Relationship": "Outer", "Actual Rows": 3, "Actual Loops": 1},
                {"Node Type": "Scan", "Parent Relationship": "InitPlan", "Actual Rows": 9, "Actual Loops": 1},
            ],
        },
    }
    with path.open("a") as file:
        for new in (
            record(WAITING, detail=HOLDERS, statement="UPDATE t SET x = 'secret'"),
            record("checkpoint complete"),
            record(f"duration: 1 ms  plan:\n{json.dumps(plan)}", statement="SELECT 'secret'"),
        ):
            file.write(json.dumps(new) + "\n")
    target = tmp_path / "taken"
    target.mkdir()
    taken = server_log.take([path], since, target)
    with gzip.open(taken, "rt") as lines:
        content = lines.read()
    assert "secret" not in content
    assert content.count("\n") == 2
    from async_scheduler.contention.census import locked_reads

    (read,) = locked_reads([taken])
    assert (read.seen, read.locked, read.skipped) == (3, 1, 2)
