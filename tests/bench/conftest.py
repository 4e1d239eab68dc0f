"""A browser, and one small run for all tests that look at what a run leaves behind."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from poc_bench import record
from poc_bench.cli import main
from poc_bench.database.postgres import EmbeddedPostgres

ARGUMENTS = (
    "run",
    *("--workload", "layers:dags=1,runs=2,tasks=20,mixed-rules:dags=1,runs=1"),
    *("--arm", "sync,naive"),
    *("--rtt", "2.5"),
    *("--timeout", "1800"),
)


@dataclass(frozen=True, slots=True)
class SmallRun:
    """What a small run left: exit code, folder, record, processes and temporary folders still there."""

    code: int
    folder: Path
    record: record.RunRecord
    left: list[str]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> SmallRun:
    """Two arms on two workloads behind a link of 2.5 ms, measured once for all xdist workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "small-run"
    outcome = folder / "outcome.json"
    with FileLock(folder.with_suffix(".lock")):
        if not outcome.exists():
            found = _measure(folder)
            outcome.write_text(json.dumps(found))
    return SmallRun(folder=folder, record=record.read(folder), **json.loads(outcome.read_text()))


class Undisturbed(EmbeddedPostgres):
    """A server without autovacuum: when it comes by on a slow machine, the server counts its commits too."""

    def __init__(self) -> None:
        super().__init__()
        self._run("ALTER SYSTEM SET autovacuum = off")
        self._run("SELECT pg_reload_conf()")


def _measure(folder: Path) -> dict[str, object]:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with tempfile.TemporaryDirectory(prefix="bench-tests-") as temporary:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", temporary)
            patch.setattr("poc_bench.database.postgres.EmbeddedPostgres", Undisturbed)
            code = main([*ARGUMENTS, "--out", str(folder)])
        files = [file.name for file in Path(temporary).iterdir()]
    processes = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    return {"code": code, "left": files + [child.name() for child in processes]}
