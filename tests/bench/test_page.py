"""The page in a real browser: it needs no network, says nothing on the console and draws every plot."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from poc_bench.cli import main
from poc_bench.report.plots import plots
from tests.bench.records import made_up_run

if TYPE_CHECKING:
    from pathlib import Path

BROWSER = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=20000",
)
PLOTS = {
    "throughput",
    "size",
    "rtt",
    "queue_delay",
    "run_close_delay",
    "run_latency",
    "cpu",
    "statements",
    "floor",
    "no-gain",
}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    run = made_up_run(
        sizes=(
            "layers:dags=2,runs=2,tasks=20",
            "layers:dags=2,runs=2,tasks=20,duration=1",
            "linear:length=5",
        ),
        rtts=(0.0, 2.5),
    )
    run.cells[1].failure = "scheduler 0 ended with exit code 3: <b>Boom</b>"
    run.write(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    return tmp_path / "report.html"


def test_the_page_in_a_browser(page: Path, chromium: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [chromium, *BROWSER, f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", f"file://{page}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    sections = done.stdout.split('<section class="plot">')[1:]
    drawn = [re.search(r'id="plot-([\w-]+)"', section) for section in sections]
    assert {match.group(1) for match in drawn if match} == PLOTS
    for section in sections:
        assert 'class="main-svg"' in section
        assert re.search(r'class="(point|scatterlayer mlayer|trace)', section)
        assert "<details>" in section


def test_the_page_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](https?:)?//""", markup)
    assert "<script src" not in text


def test_what_a_log_says_is_shown_as_text(page: Path) -> None:
    assert "&lt;b&gt;Boom" in page.read_text(encoding="utf-8")


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    one, two = made_up_run(), made_up_run(seed=2)
    throughput = plots([("before", one), ("after", two)])[0]
    assert {row[1] for row in throughput.rows} >= {"naive · before", "naive · after"}


def test_an_empty_run_makes_a_page(tmp_path: Path) -> None:
    made_up_run(repeats=0).write(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
