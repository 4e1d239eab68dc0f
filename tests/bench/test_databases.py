"""The other databases, and real task processes: a cell each."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from poc_bench import record
from poc_bench.cli import main

pytestmark = pytest.mark.deep
SMALL = ("run", "--workload", "layers:dags=1,runs=1,tasks=10")


def cells(folder: Path) -> list[record.CellRecord]:
    return [cell for cell in record.read(folder).cells if cell.arm != "floor"]


def test_sqlite(tmp_path: Path) -> None:
    assert main([*SMALL, "--arm", "sync,naive", "--db", "sqlite", "--out", str(tmp_path)]) == 0
    assert [cell.arm for cell in cells(tmp_path)] == ["sync", "naive"]


@pytest.mark.skipif(
    shutil.which("mariadbd") is None or find_spec("MySQLdb") is None or find_spec("aiomysql") is None,
    reason="needs mariadb-server, mysqlclient and aiomysql",
)
def test_mariadb_behind_a_link(tmp_path: Path) -> None:
    options = ("--arm", "sync,naive", "--db", "mysql", "--rtt", "2.5", "--out", str(tmp_path))
    assert main([*SMALL, *options]) == 0
    assert all(cell.link is not None for cell in cells(tmp_path))


def test_real_task_processes(tmp_path: Path) -> None:
    assert main([*SMALL, "--arm", "sync", "--executor", "local", "--out", str(tmp_path)]) == 0


def test_profiles(tmp_path: Path) -> None:
    assert main([*SMALL, "--arm", "sync", "--profile", "--out", str(tmp_path)]) == 0
    files = [name for cell in cells(tmp_path) for name in cell.profiles]
    assert {Path(name).suffix for name in files} == {".json", ".svg"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in files:
        assert (tmp_path / name).stat().st_size > 0
        assert f'href="{name}"' in page


def test_a_past_of_finished_task_instances(tmp_path: Path) -> None:
    size = ("--size", "history=20000")
    assert main([*SMALL, *size, "--arm", "sync", "--out", str(tmp_path)]) == 0
    assert [cell.task_instances for cell in cells(tmp_path)] == [10]
