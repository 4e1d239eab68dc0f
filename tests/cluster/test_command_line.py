"""What a person at the terminal reads when the cluster cannot start: one line, a hint, exit code 2."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from async_scheduler.devcluster.cluster import CHECKOUT


def devcluster(*arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "async_scheduler.devcluster", *arguments],
        cwd=CHECKOUT,
        env={"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, lines = devcluster("up", "--data-dir", str(tmp_path / "c"), "--port", port)
    assert code == 2
    assert lines == [
        f"Port {port} cannot be used: Address already in use.",
        "Stop the program that has it, or choose another: PORT=8081",
    ]
    assert not (tmp_path / "c").exists()


def test_data_of_another_postgresql(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("17")
    code, lines = devcluster("demo", "--data-dir", str(tmp_path))
    assert code == 2
    assert len(lines) == 2
    assert "holds data of PostgreSQL 17; the embedded server is PostgreSQL 18." in lines[0]


def test_a_scheduler_that_does_not_exist() -> None:
    code, lines = devcluster("demo", "--scheduler", "asink")
    assert code == 2
    assert "invalid choice: 'asink'" in lines[-1]


def test_a_port_that_is_none() -> None:
    code, lines = devcluster("up", "--port", "80801")
    assert code == 2
    assert "'80801' is not a port (0 to 65535)" in lines[-1]
