"""py-spy on the schedulers of a cell."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from poc_bench.errors import UsageError
from poc_bench.processes import Child

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poc_bench.site import Profile

RATE = 100
"""Samples a second."""
SUFFIXES: dict[Profile, str] = {"speedscope": ".speedscope.json", "flamegraph": ".svg"}


class Profiler:
    """Records one profile per scheduler from the moment it is made until :meth:`stop`."""

    def __init__(self, schedulers: Sequence[Child], form: Profile, folder: Path, name: str) -> None:
        self._files = []
        self._recorders = []
        for number, scheduler in enumerate(schedulers):
            file = folder / f"{name}{f'-{number}' if number else ''}{SUFFIXES[form]}"
            command = [py_spy(), "record", "--pid", str(scheduler.pid), "--rate", str(RATE)]
            command += ["--format", form, "--duration", "86400", "--output", str(file)]
            recorder = Child(f"py-spy {number}", command, os.environ, folder)
            self._files.append(file)
            self._recorders.append(recorder)

    def stop(self) -> list[Path]:
        """Write the profiles and return their files."""
        for recorder in self._recorders:
            recorder.end(politely=signal.SIGINT)
        return [file for file in self._files if file.exists()]


def py_spy() -> str:
    """Return the path of py-spy.

    :raises UsageError: when it is not installed.
    """
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise UsageError("--profile needs py-spy: pip install py-spy")
    return found
