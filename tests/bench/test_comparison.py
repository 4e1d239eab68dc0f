"""``poc-bench compare`` and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from poc_bench.cli import main
from poc_bench.report.comparison import changes
from poc_bench.report.verdict import entries, remarks, summary
from tests.bench.records import made_up_run

if TYPE_CHECKING:
    from pathlib import Path


def test_identical_runs_pass(tmp_path: Path) -> None:
    made_up_run().write(tmp_path)
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0


def test_noise_passes(tmp_path: Path) -> None:
    made_up_run(seed=1).write(tmp_path / "a")
    made_up_run(seed=2).write(tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0


def test_a_planted_regression_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_run(seed=1).write(tmp_path / "a")
    made_up_run(seed=2, factors={"naive": 0.7}).write(tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    out = capsys.readouterr().out
    assert "naive" in out
    assert "throughput" in out


def test_an_improvement_passes() -> None:
    found = changes(made_up_run(seed=1), made_up_run(seed=2, factors={"naive": 1.5}))
    better = {(change.arm, change.figure) for change in found if change.verdict == "better"}
    assert ("naive", "throughput") in better
    assert not [change for change in found if change.verdict == "worse"]


def test_a_cell_that_now_fails_is_a_regression(tmp_path: Path) -> None:
    made_up_run().write(tmp_path / "a")
    after = made_up_run()
    after.cells[-1].failure = "scheduler 0 ended with exit code 3"
    after.write(tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1


def test_two_repeats_are_not_judged() -> None:
    found = changes(made_up_run(repeats=2), made_up_run(repeats=2, factors={"naive": 0.5}))
    assert {change.verdict for change in found} == {"too few repeats"}


def test_verdict_takes_ratios_pair_by_pair() -> None:
    run = made_up_run()
    naive = next(entry for entry in entries(run) if entry.arm == "naive")
    against_sync, against_tuned = naive.against("sync"), naive.against("sync-tuned")
    assert against_sync is not None
    assert against_tuned is not None
    assert (against_sync.word, against_tuned.word) == ("better", "worse")
    assert against_sync.ratio.median == pytest.approx(200 / 70, rel=0.05)
    sentence = summary("naive", entries(run), "sync-tuned")
    assert sentence is not None
    assert sentence.startswith("naive against sync-tuned: worse on layers (0.")


def test_lower_is_better_for_latency() -> None:
    run = made_up_run(sizes=("steady:rate=2",))
    for cell in run.cells:
        cell.figures["run_latency_p50"] = 1 / cell.figures["throughput"]
    comparison = next(entry for entry in entries(run) if entry.arm == "naive").against("sync")
    assert comparison is not None
    assert comparison.word == "better"


def test_a_wrong_cell_has_no_figure_and_is_shown_as_failed() -> None:
    run = made_up_run(repeats=1)
    naive = next(cell for cell in run.cells if cell.arm == "naive")
    naive.differences = ["layers_000/bench_00000: success in the sync arm, failed here"]
    entry = next(entry for entry in entries(run) if entry.arm == "naive")
    assert entry.value is None
    assert entry.troubles == ("layers_000/bench_00000: success in the sync arm, failed here",)


def test_an_overloaded_machine_is_said_so() -> None:
    run = made_up_run()
    assert not remarks(run)
    run.cells[0].foreign_cores = 0.9
    assert "overloaded" in remarks(run)[0]
