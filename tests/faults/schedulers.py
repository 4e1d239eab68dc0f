"""Scheduler processes of a field: started by a zygote, killed at will, never left behind."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
READY_WITHIN = 600.0
CRASH = "FAULTS_CRASH"
"""The variable that names a scheduler's crash point, see :mod:`tests.faults.crashpoints`."""
BEHAVIOUR = "FAULTS_EXECUTOR"
"""The variable that says what its executor does now and then: ``raises``, ``hangs`` or ``lies``."""


@dataclass(slots=True)
class Scheduler:
    """One scheduler process. ``code`` is None while it runs, negative when a signal has ended it."""

    pid: int
    log: Path
    label: str
    stock: bool = False
    killed: bool = False
    """Whether the test ended it: then its exit code says nothing."""
    code: int | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.killed = True
        self.signal(signal.SIGKILL)

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


STEPS_DOWN = re.compile(r"airflow scheduler --async: Job \d+ of this scheduler is .* in the database")
STARTED = "Starting the async scheduler"
"""What our code prints first."""


def _says_why(code: int | None, text: str) -> bool:
    """Whether a scheduler's end is clear: by our line; before our code by Airflow's error or a signal."""
    if code == 1 and "airflow scheduler --async: " in text:
        return True
    return STARTED not in text and (code == -signal.SIGTERM or "OperationalError" in text)


@dataclass(slots=True)
class Schedulers:
    """Starts schedulers in *environment*, whose logs go to *folder*."""

    environment: Mapping[str, str]
    folder: Path
    all: list[Scheduler] = field(default_factory=list)
    _process: subprocess.Popen[bytes] = field(init=False)
    _listener: threading.Thread = field(init=False)
    _pids: queue.Queue[int] = field(default_factory=queue.Queue)
    _codes: dict[int, int] = field(default_factory=dict)

    def open(self) -> None:
        """Start the zygote and wait until it is ready."""
        with (self.folder / "zygote.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.zygote"],
                env={**self.environment, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen, name="zygote", daemon=True)
        self._listener.start()
        self._pids.get(timeout=READY_WITHIN)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "code" in said:
                self._codes[said["pid"]] = said["code"]
                for one in self.all:
                    if one.pid == said["pid"]:
                        one.code = said["code"]
            else:
                self._pids.put(said.get("pid", 0))

    def start(self, label: str, *args: str, **environment: str) -> Scheduler:
        """Start ``airflow scheduler`` with *args*."""
        log = self.folder / f"scheduler-{len(self.all)}-{label.replace(' ', '-').replace('|', '-')}.log"
        request = {"args": args, "env": environment, "log": str(log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._pids.get(timeout=READY_WITHIN)
        self.all.append(Scheduler(pid, log, label, stock="--async" not in args))
        self.all[-1].code = self._codes.get(pid)
        return self.all[-1]

    @property
    def running(self) -> list[Scheduler]:
        """Those that have not ended."""
        return [one for one in self.all if one.code is None]

    def stop(self, within: float = 120.0) -> list[str]:
        """End all politely; return a line for each that would not end, or ended badly by itself."""
        for one in self.running:
            one.signal(signal.SIGCONT)
            one.signal(signal.SIGTERM)
        until = time.monotonic() + within
        while self.running and time.monotonic() < until:
            time.sleep(0.05)
        hanging = self.running
        for one in hanging:
            one.kill()
        return [f"scheduler {one.label} did not end within {within:g} s of SIGTERM" for one in hanging]

    def endings(self) -> list[str]:
        """Return a line for each async scheduler that ended by itself, though nobody had declared it dead.

        Those that had not come to a first heartbeat of their executor, for want of a database, are left out.
        """
        lines = []
        for one in self.all:
            turned = (self.folder / "ready" / str(one.pid)).exists()
            if one.killed or one.stock or one.code in (None, 0) or not turned:
                continue
            if not any(STEPS_DOWN.match(line) for line in one.text.splitlines()):
                lines.append(f"{one.label}: {one.text.strip().splitlines()[-1][-300:]}")
        return lines

    def counts(self, prefix: str = "") -> Counter[str]:
        """Return what all schedulers have counted, see :mod:`tests.faults.executor`."""
        total: Counter[str] = Counter()
        for file in self.folder.glob("counts-*.json"):
            total.update({k: v for k, v in json.loads(file.read_text()).items() if k.startswith(prefix)})
        return total

    def bad_endings(self) -> list[str]:
        """Return a line for each scheduler that nobody killed and that ended without saying why."""
        return [
            f"scheduler {one.label} ended with code {one.code} and no clear message: {one.text[-300:]}"
            for one in self.all
            if not one.killed and one.code not in (None, 0) and not _says_why(one.code, one.text)
        ]

    def close(self) -> None:
        """Leave no process behind."""
        for one in self.running:
            one.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
