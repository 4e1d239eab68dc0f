"""A small matrix from end to end: real schedulers, a real server, a link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from poc_bench.cli import main
from poc_bench.link.linked import TOLERANCE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.conftest import SmallRun


def kept_logs(small_run: SmallRun) -> str:
    """Return the ends of the logs that a failed cell leaves."""
    files = sorted((small_run.folder / "logs").rglob("*.log"))
    return "\n".join(f"{file}:\n{file.read_text()[-10_000:]}" for file in files)


def test_every_cell_did_its_work_right(small_run: SmallRun) -> None:
    failures = [cell.failure for cell in small_run.record.cells if cell.failure]
    assert not failures, kept_logs(small_run)
    assert small_run.code == 0
    cells = [cell for cell in small_run.record.cells if cell.arm != "floor"]
    assert [(cell.workload, cell.arm) for cell in cells] == [
        (workload, arm) for workload in ("layers", "mixed-rules") for arm in ("sync", "naive")
    ]
    assert all(cell.correct and cell.compared_with == "sync" for cell in cells)
    assert {cell.workload: cell.task_instances for cell in cells} == {"layers": 40, "mixed-rules": 54}


def test_figures_are_all_there(small_run: SmallRun) -> None:
    for cell in small_run.record.cells:
        if cell.arm == "floor":
            assert cell.figures["throughput"] > 0
            continue
        assert {"queue_delay", "run_start_delay", "run_close_delay", "run_latency"} == set(cell.distributions)
        for name in (
            "throughput",
            "scheduler_cpu",
            "server_cpu",
            "peak_rss",
            "statements",
            "rows",
            "commits",
        ):
            assert cell.figures[name] > 0, name
        assert 0 < cell.figures["database_wait_share"] < 1.05
        assert {"deadlocks", "critical_section_busy", "connections"} <= cell.figures.keys()


def test_the_drivers_count_agrees_with_the_servers(small_run: SmallRun) -> None:
    for cell in small_run.record.cells:
        if cell.arm != "floor":
            assert cell.figures["server_commits_ratio"] == pytest.approx(1, abs=0.15)


def test_the_link_was_verified(small_run: SmallRun) -> None:
    for cell in small_run.record.cells:
        if cell.arm != "floor":
            assert cell.link is not None
            assert cell.link["added"] == pytest.approx(2.5, rel=TOLERANCE)
            assert cell.link["chunks"] > 100


def test_the_harness_itself_costs_little(small_run: SmallRun) -> None:
    assert max(cell.harness_cpu_share for cell in small_run.record.cells) < 0.05


def test_nothing_is_left_behind(small_run: SmallRun) -> None:
    assert small_run.left == []
    assert not (small_run.folder / "logs").exists()


def test_the_summary_has_the_table(small_run: SmallRun) -> None:
    text = (small_run.folder / "summary.md").read_text()
    assert "| work | sync | naive |" in text
    assert "mixed-rules, RTT 2.5 ms" in text


def test_the_page_can_be_made_again_and_compared(small_run: SmallRun, tmp_path: Path) -> None:
    folder = str(small_run.folder)
    assert main(["report", folder, folder, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert main(["compare", folder, folder]) == 0
