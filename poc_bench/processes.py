"""Child processes of a cell: started with a log of their own, watched, and always ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


DUMP_GRACE = 5.0
"""Seconds for a process to log what it is at."""
ABORT_GRACE = 10.0
"""Seconds for a process that is aborted to write where its threads were."""


def module(*arguments: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", *arguments]


class Child:
    """A process in a session of its own, so that the terminal's Ctrl-C reaches only the harness."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        """Start *command* in *folder*, where its output goes to a log of that *name*."""
        self.name = name
        self.log = folder / f"{name.replace(' ', '-')}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while the process runs."""
        return self._process.poll()

    def cpu_seconds(self) -> float:
        """Return the user and system CPU seconds of the process so far, without its children's."""
        seconds = 0.0
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self.pid).cpu_times()
            seconds = float(times.user + times.system)
        return seconds

    def peak_rss_mib(self) -> float:
        """Return the highest resident set so far in MiB; 0 when the process is gone."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def last_line(self) -> str:
        """Return the last line of the log that says something."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "(empty log)"

    def wait(self, timeout: float) -> int:
        """Return the exit code once the process has ended; end it after *timeout* seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.end()

    def end(
        self,
        grace: float = 120.0,
        politely: signal.Signals = signal.SIGTERM,
        dump: signal.Signals | None = None,
    ) -> int:
        """Send SIGTERM (or *politely*), again after half of *grace* seconds, then end what is left by force.

        Asked again, because the stock scheduler can lose the first one: its handler raises ``SystemExit``
        wherever the process happens to be, and Python drops what is raised in a weak reference's callback or
        a finaliser. Before that *dump* asks the process to log what it is at; before SIGKILL comes SIGABRT,
        so that the log shows where each thread was.

        Returns the exit code.
        """
        family = self._family()
        steps = [(politely, grace / 2), (politely, grace / 2), (signal.SIGABRT, ABORT_GRACE)]
        if dump is not None:
            steps.insert(1, (dump, DUMP_GRACE))
        for number, patience in steps:
            if self._process.poll() is None:
                self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._process.kill()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        return self._process.wait()

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.pid).children(recursive=True))
        return []
