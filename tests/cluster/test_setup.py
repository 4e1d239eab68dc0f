"""Setting up: which Python is taken, and the one line where there is none; the lock file."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from async_scheduler.devcluster.cluster import CHECKOUT

LOCK = CHECKOUT / "config" / "requirements.lock"


def find_python(path: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", str(CHECKOUT / "config" / "find-python"), *arguments],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout or done.stderr).strip()


def fake_python(directory: Path, name: str, version: str, fits: bool) -> None:
    """Put a program into *directory* that answers as a Python of *version* would."""
    file = directory / name
    file.write_text(
        f'#!/bin/sh\ncase "$2" in *platform*) echo {version};; *version_info*) exit {int(not fits)};; esac\n'
    )
    file.chmod(0o755)


def test_the_first_python_that_fits_is_taken(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.14.1", fits=False)
    fake_python(tmp_path, "python3.12", "3.12.4", fits=True)
    assert find_python(tmp_path) == (0, str(tmp_path / "python3.12"))


def test_an_old_python_gives_one_clear_line(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.9.2", fits=False)
    code, line = find_python(tmp_path)
    assert code == 1
    assert line == (
        "Python 3.11, 3.12 or 3.13 is needed; python3 is 3.9.2; name another: make PYTHON=/path/to/python3.12"
    )


def test_no_python_gives_one_clear_line(tmp_path: Path) -> None:
    code, line = find_python(tmp_path)
    assert code == 1
    assert "is needed; none is installed;" in line
    assert "\n" not in line


def test_a_named_python_is_the_only_candidate(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.12.4", fits=True)
    fake_python(tmp_path, "mine", "3.8.1", fits=False)
    assert find_python(tmp_path, "mine")[0] == 1
    assert find_python(tmp_path, sys.executable) == (0, sys.executable)


def test_the_lock_file_names_no_index() -> None:
    assert "://" not in LOCK.read_text()
    assert "--index-url" not in LOCK.read_text()


def requirements() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [line for line in [*project["dependencies"], *extras] if not line.startswith(project["name"])]


@pytest.mark.parametrize("requirement", sorted(set(requirements())))
def test_the_lock_file_pins_every_dependency(requirement: str) -> None:
    name = re.split(r"[\[<>=;! ]", requirement)[0].lower()
    assert re.search(rf"^{re.escape(name)}==\S+", LOCK.read_text(), re.MULTILINE), "run `make lock`"
