"""What cannot be done is said in one line, with exit code 2, before anything is started."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from poc_bench.cli import _matrix, _parser, main
from poc_bench.examples import EXAMPLES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--workload", "nothing"], "There is no workload 'nothing'"),
        (["run", "--workload", "layers:colour=1"], "Workload layers has no 'colour'"),
        (["run", "--arm", "fastest"], "There is no arm 'fastest'"),
        (["run", "--rtt", "far"], "--rtt wants numbers"),
        (["run", "--schedulers", "0"], "--schedulers wants nothing below 1"),
        (["run", "--repeat", "-3"], "--repeat wants nothing below 1"),
        (["run", "--repeat", "0"], "--repeat wants nothing below 1"),
        (["run", "--timeout", "-1"], "--timeout wants nothing below 1"),
        (["contention", "--family", "fast"], "There is no family 'fast'"),
        (
            ["contention", "--arms", "fastest"],
            "There is no arm 'fastest' in these families. There are: ",
        ),
        (["contention", "--workload", "idle"], "How long work takes is measured here, and idle is none"),
        (["contention", "--lanes", "0"], "--lanes wants nothing below 1"),
        (["contention", "--repeat", "0"], "--repeat wants nothing below 1"),
        (["contention", "--timeout", "nan"], "--timeout wants nothing below 1"),
        (["run", "--db", "oracle"], "--db wants postgres, mysql, sqlite"),
        (["run", "--db", "sqlite", "--rtt", "5"], "--rtt has no meaning for SQLite"),
        (["run", "--db", "postgresql://nobody:hush@127.0.0.1:1/x"], "No PostgreSQL at 127.0.0.1:1/x"),
        (["report", "nowhere"], "No run in nowhere"),
        (["compare", "nowhere", "elsewhere"], "No run in nowhere"),
    ],
)
def test_one_clear_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"poc-bench: {said}")
    assert captured.err.count("\n") == 1
    assert "hush" not in captured.err


def test_a_file_of_another_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text('{"schema": 0}')
    assert main(["report", str(tmp_path)]) == 2
    assert "has schema 0" in capsys.readouterr().err


def test_list_describes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "mixed-rules" in out
    assert "sync-tuned" in out


def test_the_console_script_ends_with_the_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "poc_bench", "run", "--arm", "fastest"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_experiment_that_is_not_there_cannot_be_added_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "contention.json").write_text("garbled")
    assert main(["contention", "--add", "--mode", "census", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_examples_of_the_help_are_commands_that_work() -> None:
    lines = [line for text in EXAMPLES.values() for line in text.splitlines()]
    assert len(lines) > 10
    for line in lines:
        options = _parser().parse_args(line.strip().split("  ")[0].split()[1:])
        if hasattr(options, "profile"):
            assert len(_matrix(options)) > 0
