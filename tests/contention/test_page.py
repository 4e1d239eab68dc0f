"""The page in a real browser, and what hostile names can do to it: nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from async_scheduler.contention.building import build, load
from async_scheduler.contention.page import page, write_page
from async_scheduler.contention.report import ArmFigures, CellFigures, Report
from tests.contention.traces import two_routines, write_trace

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>start</b>"


OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--dump-dom"),
)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """A report whose names try to break out."""
    made = build(load(write_trace(tmp_path / "trace", *two_routines(HOSTILE))), title=f"Title {HOSTILE}")
    made.arms = [
        ArmFigures(
            arm=HOSTILE,
            rtt_ms=rtt,
            schedulers=1,
            repeats=2,
            wall_s=[1.0, 2.0],
            cpu_s=[1.0, 1.0],
            items=10,
            speed_up=(1.0, 0.9, 1.1),
        )
        for rtt in (0.0, 2.5)
    ]
    made.cells = [
        CellFigures(
            arm=HOSTILE,
            rtt_ms=0.0,
            schedulers=2,
            wall_s=1.0,
            waits=3,
            lock_s_per_item=0.001,
            database_s_per_item=0.001,
            lock_share=0.1,
            loop_share=(0.1, 0.2),
            worst=HOSTILE,
            hold_median_ns=1e6,
            refused=1,
            attributed=1.0,
            unexplained=0.01,
            sampler_share=None,
            sampler_cpu_share=0.01,
        )
    ]
    made.quality.overhead = (1.02, 1.01, 1.03)
    return made


def test_page_draws_everything_and_runs_nothing_else(report: Report, chromium: str, tmp_path: Path) -> None:
    write_page([report, report], tmp_path / "page.html")
    done = subprocess.run(
        [chromium, *OPTIONS, f"--user-data-dir={tmp_path / 'browser'}", f"file://{tmp_path / 'page.html'}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert "<title>owned</title>" not in done.stdout
    assert not re.search(r"<img[^>]+onerror", done.stdout)
    charts = done.stdout.split('data-figure="')[1:]
    assert {chart.split('"', 1)[0] for chart in charts} == {
        f"{report}-data-{chart}"
        for report in ("r1", "r2")
        for chart in ("arms", "matrix", "walls", "holds", "skips")
    }
    assert all('class="main-svg"' in chart for chart in charts)


def test_every_section_is_there(report: Report) -> None:
    text = page([report])
    for anchor in (
        "verdict",
        "questions",
        "arms",
        "cells",
        "matrix",
        "walls",
        "holds",
        "skips",
        "statements",
        "failures",
        "quality",
    ):
        assert f'<section id="r1-{anchor}"' in text


def test_page_tells_the_cost_of_tracing(report: Report) -> None:
    assert "+2.0 % CPU (+1.0 to +3.0)" in page([report])


def test_page_loads_nothing(report: Report) -> None:
    markup = re.sub(r"<script.*?</script>", "", page([report]), flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](https?:)?//""", markup)
    assert "<script src" not in page([report])


def test_empty_trace_makes_a_page(tmp_path: Path) -> None:
    text = page([build(load(write_trace(tmp_path / "trace")))])
    assert "nothing to judge" in text
