"""How a run goes over its matrix, with cells that are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.console import Console

from poc_bench import record
from poc_bench.arms import ARMS
from poc_bench.errors import CellFailure
from poc_bench.matrix import Matrix
from poc_bench.progress import Progress
from poc_bench.run import Run
from poc_bench.tuning import GRID, Tuned
from poc_bench.workloads import sized
from tests.bench.test_correctness import observation, ti_row

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from poc_bench.bench import Bench
    from poc_bench.observation import Observation
    from poc_bench.site import CellKey

BEST = GRID[3]


class MadeUpBench:
    """Answers at once. The best settings are :data:`BEST`; *naive* fails; *stop_after* cells come Ctrl-C."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.measured: list[tuple[str, int, Mapping[str, str]]] = []
        self._stop_after = stop_after

    def database_description(self) -> dict[str, str]:
        return {"kind": "made up", "version": "1"}

    def measure(self, key: CellKey, settings: Mapping[str, str]) -> Observation:
        if len(self.measured) == self._stop_after:
            raise KeyboardInterrupt
        self.measured.append((key.arm.name, key.repeat, dict(settings)))
        if key.arm.name == "naive":
            raise CellFailure("scheduler 0 ended with exit code 3: boom")
        instances = [ti_row("r1", "a", 0, 1)] * (50 if settings == BEST else 10)
        return observation(instances)

    def floor(self, key: CellKey) -> dict[str, float]:
        return {"task_instances": 100, "seconds": 0.5, "server_cpu": 0.1}


def run_over(
    bench: MadeUpBench, arms: str, folder: Path, repeats: int = 2, tuned: list[Tuned] | None = None
) -> record.RunRecord:
    matrix = Matrix([sized("star", "quick")], [ARMS[name] for name in arms.split(",")], repeats=repeats)
    with Progress(Console(quiet=True), len(matrix)) as progress:
        Run(matrix, cast("Bench", bench), folder, progress, tuned).measure_all()
    return record.read(folder)


def test_settings_are_searched_once_and_recorded(tmp_path: Path) -> None:
    bench = MadeUpBench()
    found = run_over(bench, "sync-tuned", tmp_path)
    assert [settings for _, repeat, settings in bench.measured if repeat == 0] == list(map(dict, GRID))
    assert [settings for _, repeat, settings in bench.measured if repeat > 0] == [BEST, BEST]
    assert len(found.tuned) == 1
    assert found.tuned[0]["best"] == BEST
    assert len(found.tuned[0]["trials"]) == len(GRID)
    assert [cell.settings for cell in found.cells if cell.arm == "sync-tuned"] == [BEST, BEST]


def test_settings_of_an_earlier_run_are_taken(tmp_path: Path) -> None:
    earlier = run_over(MadeUpBench(), "sync-tuned", tmp_path / "earlier")
    bench = MadeUpBench()
    tuned = [Tuned(**found) for found in earlier.tuned]
    later = run_over(bench, "sync-tuned", tmp_path / "later", tuned=tuned)
    assert [settings for _, _, settings in bench.measured] == [BEST, BEST]
    assert later.tuned == earlier.tuned


def test_a_failed_cell_does_not_end_the_run(tmp_path: Path) -> None:
    found = run_over(MadeUpBench(), "naive,sync", tmp_path, repeats=1)
    cells = {cell.arm: cell for cell in found.cells}
    assert cells["naive"].failure == "scheduler 0 ended with exit code 3: boom"
    assert cells["sync"].correct
    assert cells["floor"].figures["throughput"] == 200


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    found = run_over(MadeUpBench(stop_after=3), "sync,sync-x2", tmp_path, repeats=5)
    assert found.interrupted
    assert len([cell for cell in found.cells if cell.arm != "floor"]) == 3


def test_other_end_states_make_a_cell_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = MadeUpBench()
    seen = iter([observation([ti_row("r1", "a", 0, 1)]), observation([ti_row("r1", "a", 0, 1, "failed")])])
    monkeypatch.setattr(bench, "measure", lambda key, settings: next(seen))
    found = run_over(bench, "sync,sync-x2", tmp_path, repeats=1)
    wrong = next(cell for cell in found.cells if cell.arm == "sync-x2")
    assert wrong.differences == ["d/r1/a/-1: success, try 1 in the sync arm, failed, try 1 here"]
