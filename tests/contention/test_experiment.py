"""An experiment of made-up runs: what it says must follow from its figures, yes and no."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from async_scheduler.contention import experiment
from async_scheduler.contention.experiment import Experiment, Family, Mode, RunRecord
from async_scheduler.contention.family import reports, with_details
from async_scheduler.contention.intervals import ratio
from async_scheduler.contention.questions import trust_of
from async_scheduler.contention.reading import UnreadableTrace
from async_scheduler.contention.report import Quality
from tests.contention.traces import MS, UPDATE, iteration, transaction, two_routines, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from async_scheduler.contention.report import Question
    from async_scheduler.measure.events import Event

FAMILY = Family(name="algorithm", concurrent="together", sequential="in turn")


def timed(arm: str, seconds: float, repeat: int, **more: float) -> RunRecord:
    """Return a timed run."""
    return RunRecord(
        arm=arm,
        mode="timing",
        rtt_ms=more.get("rtt", 0.0),
        schedulers=int(more.get("schedulers", 1)),
        repeat=repeat,
        wall_s=seconds,
        cpu_s=seconds / 2,
        items=100,
        transactions=10_000,
    )


def traced(arm: str, mode: Mode = "attribution") -> RunRecord:
    """Return a traced run whose trace lies in a folder of that name."""
    return RunRecord(
        arm=arm,
        mode=mode,
        rtt_ms=0,
        schedulers=1,
        repeat=1,
        wall_s=1,
        cpu_s=1,
        items=100,
        trace=arm,
        traced=True,
    )


def traced_with(folder: Path, arm: str) -> RunRecord:
    """Write a trace in which one routine waits for another; return its run."""
    write_trace(folder / arm, *two_routines())
    return traced(arm)


def answers(folder: Path, *runs: RunRecord, family: Family = FAMILY) -> dict[int, Question]:
    """Write an experiment of *runs* and return its questions."""
    made = Experiment(created="now", workload="w", machine={}, families=[family], runs=list(runs))
    experiment.write(made, folder)
    (report,) = reports(folder)
    return {asked.number: asked for asked in report.questions}


def both(sequential: float, concurrent: float) -> list[RunRecord]:
    """Return seven pairs of timed runs around those times."""
    wobble = [1.0, 1.02, 0.98, 1.01, 0.99, 1.03, 0.97]
    return [
        timed(arm, seconds * w, n)
        for n, w in enumerate(wobble)
        for arm, seconds in (("in turn", sequential), ("together", concurrent))
    ]


def test_speed_up_that_is_sure_proves_the_objection_wrong(tmp_path: Path) -> None:
    asked = answers(tmp_path, *both(2.0, 1.0))
    assert asked[1].answer == "objection wrong"
    assert asked[1].figure.startswith("2.00 ")


@pytest.mark.parametrize("concurrent", [2.0, 3.0])
def test_no_speed_up_proves_it_right(tmp_path: Path, concurrent: float) -> None:
    assert answers(tmp_path, *both(2.0, concurrent))[1].answer == "objection right"


def test_gain_only_behind_a_link_is_mixed(tmp_path: Path) -> None:
    far = [
        timed(arm, seconds + n / 100, n, rtt=5.0)
        for n in range(3)
        for arm, seconds in (("in turn", 4.0), ("together", 2.0))
    ]
    assert answers(tmp_path, *both(2.0, 2.0), *far)[1].answer == "mixed"


def test_lock_time_added_is_held_against_wall_time_saved(tmp_path: Path) -> None:
    quiet: list[Event] = [UPDATE, iteration("start", 0, 100), transaction("start", 0, 60, number=1, pid=1)]
    write_trace(tmp_path / "in turn", *quiet)
    write_trace(tmp_path / "together", *two_routines())
    saving = answers(tmp_path, *both(2.0, 1.0), traced("in turn"), traced("together"))
    assert saving[2].answer == "objection wrong"
    assert saving[2].figure == "+0.050 lock-seconds for +1.00 s of wall time saved"
    assert saving[7].answer == "objection wrong"
    losing = answers(tmp_path, *both(1.0, 1.0), traced("in turn"), traced("together"))
    assert losing[2].answer == "objection right"


def test_longer_holds_prove_it_right(tmp_path: Path) -> None:
    for arm, length in (("in turn", 20), ("together", 60)):
        write_trace(
            tmp_path / arm,
            UPDATE,
            iteration("start", 0, 100, statement_ns=MS),
            transaction("start", 0, length, number=1, pid=1),
        )
    asked = answers(tmp_path, traced("in turn"), traced("together"))
    assert asked[7].answer == "objection right"
    assert asked[1].answer == "not measured"


def test_failures_count_at_production_settings_only(tmp_path: Path) -> None:
    runs = both(2.0, 1.0)
    for run in runs:
        if run.arm == "together":
            run.sqlstates = {"40P01": 2, "55P03": 50}
    asked = answers(tmp_path, *runs)
    assert asked[6].figure == "2.00 per 10,000 (95 %: at most 3.13)"
    assert asked[6].answer == "objection right"


def test_scaling_that_bends_is_told(tmp_path: Path) -> None:
    more = [timed("together", 1.0 + n / 100, n, schedulers=2) for n in range(7)]
    assert answers(tmp_path, *both(2.0, 1.0), *more)[8].answer == "objection right"


def test_why_routines_at_once_were_not_varied_is_said(tmp_path: Path) -> None:
    family = Family(name="algorithm", concurrent="together", sequential="in turn", fixed="it cannot be")
    more = [timed("together", 0.4 + n / 100, n, schedulers=2) for n in range(7)]
    curve = answers(tmp_path, *both(2.0, 1.0), *more, family=family)[8]
    assert (curve.answer, curve.detail) == ("objection wrong", "it cannot be")
    alone = answers(tmp_path, *both(2.0, 1.0), family=family)[8]
    assert (alone.answer, alone.detail) == ("not measured", "it cannot be")


def test_rate_that_so_few_transactions_cannot_exclude_is_not_denied(tmp_path: Path) -> None:
    assert answers(tmp_path, *both(2.0, 1.0))[6].answer == "objection wrong"
    few = both(2.0, 1.0)
    for run in few:
        run.transactions = 100
    asked = answers(tmp_path, *few)[6]
    assert (asked.figure, asked.answer) == ("0.00 per 10,000 (95 %: at most 42.80)", "mixed")


def test_lanes_that_gain_are_told_from_lanes_that_do_not(tmp_path: Path) -> None:
    def lanes(seconds: dict[int, float]) -> list[RunRecord]:
        found = []
        for n in range(3):
            for lane, wall in seconds.items():
                run = timed("together", wall + n / 100, n)
                run.mode, run.lanes = "lanes", lane
                found.append(run)
        return found

    gaining = answers(tmp_path, *lanes({1: 4.0, 2: 2.0, 4: 1.0}))[8]
    assert gaining.answer == "objection wrong"
    assert "1: 1.00" in gaining.figure
    assert "4: 3.9" in gaining.figure
    assert answers(tmp_path, *lanes({1: 2.0, 2: 2.0}))[8].answer == "objection right"


def test_overhead_on_other_work_counts_as_overhead_only(tmp_path: Path) -> None:
    runs = both(2.0, 1.0)
    for n in range(4):
        for on in (True, False):
            run = timed("together", 9.0, 100 + n)
            run.mode, run.traced, run.workload, run.cpu_s = "overhead", on, "larger", 1.01 if on else 1.0
            runs.append(run)
    asked = answers(tmp_path, *runs, traced_with(tmp_path, "together"))
    assert asked[1].figure.startswith("2.00 ")
    assert "the ledger costs +1.0 % CPU" in asked[10].detail


def test_every_traced_place_has_its_figures(tmp_path: Path) -> None:
    far = traced_with(tmp_path, "together")
    far.rtt_ms, far.schedulers = 5.0, 2
    made = Experiment(created="now", workload="w", machine={}, families=[FAMILY], runs=[far])
    experiment.write(made, tmp_path)
    (report,) = reports(tmp_path)
    (cell,) = report.cells
    assert (cell.rtt_ms, cell.schedulers, cell.waits) == (5.0, 2, 2)
    assert cell.worst.startswith("start ← schedule on dag_run")
    shown = with_details(tmp_path)
    assert [other.title for other in shown[1:]] == ["together: RTT 5 ms, 2 schedulers, attribution"]
    assert "at RTT 5 ms, 2 schedulers" in report.questions[2].detail


def test_runs_that_failed_or_were_wrong_do_not_count(tmp_path: Path) -> None:
    runs = both(2.0, 1.0)
    for run in runs:
        if run.arm == "together":
            run.failure = "it fell over"
    assert answers(tmp_path, *runs)[1].answer == "not measured"


def test_cost_of_tracing_is_told(tmp_path: Path) -> None:
    def run(traced: bool, repeat: int, cpu: float) -> RunRecord:
        made = timed("together", 1.0, repeat)
        made.mode, made.traced, made.cpu_s = "overhead", traced, cpu
        return made

    pairs = [run(on, n, 1.02 + n / 1000 if on else 1.0) for n in range(4) for on in (True, False)]
    asked = answers(tmp_path, *pairs, traced_with(tmp_path, "together"))
    assert "the ledger costs +2.1 % CPU" in asked[10].detail


@pytest.mark.parametrize(("sampled", "logged", "answer"), [(5, 1, "wrong"), (500, 100, "mixed")])
def test_sources_are_compared_only_where_there_is_enough(sampled: int, logged: int, answer: str) -> None:
    found = Quality(waits=1, attributed=1, sampler_ns=sampled * MS, log_ns=logged * MS)
    assert trust_of([found]).answer.removeprefix("objection ") == answer


def test_what_is_no_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTrace, match="no experiment"):
        experiment.read(tmp_path)
    (tmp_path / experiment.FILE).write_text("{}")
    with pytest.raises(UnreadableTrace, match="damaged"):
        experiment.read(tmp_path)


def test_interval_of_a_ratio() -> None:
    assert ratio([2.0, 2.0], [1.0, 1.0]) is None
    middle, low, high = ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]) or (0.0, 0.0, 0.0)
    assert (round(middle, 9), round(low, 9), round(high, 9)) == (2.0, 2.0, 2.0)
    wide = ratio([1.0, 4.0, 0.5], [1.0, 1.0, 1.0])
    assert wide is not None
    assert wide[1] < 1 < wide[2]
