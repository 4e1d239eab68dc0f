"""Runs a module of these tests in a process whose Airflow is on another database than the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.process import ROOT

if TYPE_CHECKING:
    from tests.support.airflow_db import Reachable


def environment(database: Reachable, home: Path, **more: str) -> dict[str, str]:
    """Return the variables of a process on *database*."""
    return {
        **os.environ,
        **database.environment,
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        **more,
    }


def run(database: Reachable, home: Path, module: str, *args: str, **more: str) -> tuple[Any, str]:
    """Run ``tests.databases.<module>``; return what it printed last, as JSON, and its log."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.databases.{module}", *args],
        env=environment(database, home, **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr
