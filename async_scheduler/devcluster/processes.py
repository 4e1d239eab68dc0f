"""The processes of the cluster's process file, started, watched and ended by honcho.

honcho runs in a process of its own (this module as a program), so the terminal's Ctrl-C reaches the
cluster in one place only and whatever happens to the caller ends the cluster: its end closes the pipe
that honcho's process reads.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Message, Printer

from async_scheduler.devcluster.problem import ClusterProblem

GRACE = 15.0
"""Seconds that the scheduler with its tasks has to end, and then the others, before they are killed."""

ENDS_FIRST = "scheduler"

REAP = 5.0
"""Seconds that killed processes have to be gone."""

END_AT_ONCE = signal.SIGUSR1
"""The signal that has honcho's process kill the others without further waiting."""

MANAGER_LOG = "cluster.log"
SHOWN_LOG_LINES = 15


class Processes:
    """The running processes of a cluster, seen from outside."""

    def __init__(self, manager: subprocess.Popen[bytes], logs: Path, grace: float) -> None:
        self._manager, self._logs, self._grace = manager, logs, grace

    def wait(self, seconds: float) -> None:
        """Wait *seconds*.

        :raises ClusterProblem: as soon as one of the processes has ended.
        """
        with suppress(subprocess.TimeoutExpired):
            self._manager.wait(seconds)
            raise self._problem()

    def end(self) -> None:
        """End all processes and wait until none is left; an interrupt meanwhile kills them at once."""
        for number in (signal.SIGTERM, END_AT_ONCE, signal.SIGKILL):
            self._manager.send_signal(number)
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
                self._manager.wait(2 * self._grace + REAP)
                return

    def _problem(self) -> ClusterProblem:
        log = (self._logs / MANAGER_LOG).read_text()
        first = re.search(r"(\S+) stopped \(rc=(-?\d+)\)", log)
        if first is None:
            return ClusterProblem("The process manager ended.", f"See {self._logs / MANAGER_LOG}.")
        name, code = first.groups()
        file = self._logs / f"{name}.log"
        last = "\n".join(file.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:])
        return ClusterProblem(
            f"{name} ended with exit code {code}; the cluster cannot go on without it.",
            f"The last lines of {file}:\n{last}",
        )


@contextmanager
def running_processes(
    procfile: Path,
    environment: Mapping[str, str],
    logs: Path,
    *,
    without: Collection[str] = (),
    grace: float = GRACE,
) -> Iterator[Processes]:
    """Run the processes of *procfile*, except those in *without*, for the length of the block.

    Output of process ``x`` goes to ``logs/x.log``, honcho's own to ``logs/cluster.log``. At the end the
    scheduler has *grace* seconds to end, with its tasks, and then the others; what is left is killed.
    """
    manager = subprocess.Popen(
        [sys.executable, "-m", __name__, str(procfile), str(logs), str(grace), *without],
        env=environment,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    with manager:
        processes = Processes(manager, logs, grace)
        try:
            yield processes
        finally:
            processes.end()


class LogFiles(Printer):  # type: ignore[misc]
    """Writes the lines of each process to a file of its own, as they are."""

    def __init__(self, logs: Path) -> None:
        super().__init__()
        self._logs = logs

    def write(self, message: Message) -> None:
        """Append *message*; those of honcho itself get the time in front."""
        if message.name == "system":
            path, data = self._logs / MANAGER_LOG, f"{message.time:%H:%M:%S} {message.data}".encode()
        else:
            path, data = self._logs / f"{message.name}.log", message.data
        with path.open("ab") as file:
            file.write(data)


class PatientManager(Manager):  # type: ignore[misc]
    """honcho's manager, with an order in which processes end, and more patience before it kills."""

    def __init__(self, printer: Printer, grace: float) -> None:
        super().__init__(printer)
        self._grace = grace
        self._told_early = False

    def terminate(self) -> None:
        """Ask the scheduler to end and the others once it has: its running tasks need them until then.

        honcho calls this on a signal, and again when the first process has ended.
        """
        if not self._all_started():  # honcho does not know their process ids yet
            self._told_early = True
            return
        signal.setitimer(signal.ITIMER_REAL, self._grace)
        first = self._processes.get(ENDS_FIRST)
        if first is None or self._any_stopped():
            super().terminate()
        else:
            os.kill(first["pid"], signal.SIGTERM)

    def kill(self) -> None:
        """Do nothing: honcho would kill 5 s after the first process has ended, whoever still works."""

    def kill_all(self) -> None:
        """Kill whatever the processes have started; Airflow gives each task a process group of its own."""
        sessions = {process["pid"] for process in self._processes.values() if "pid" in process}
        for pid in psutil.pids():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) in sessions:
                    os.kill(pid, signal.SIGKILL)

    def _start(self) -> None:
        super()._start()
        threading.Thread(target=_end_with_parent, daemon=True).start()  # not before the forks above

    def _system_print(self, data: str) -> None:
        super()._system_print(data)
        if self._told_early and self._all_started():
            self._told_early = False
            self.terminate()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(procfile: Path, logs: Path, grace: float, without: Collection[str]) -> None:
    """Run the processes until one ends, a signal arrives or the parent is gone; then end all."""
    manager = PatientManager(LogFiles(logs), grace)
    commands: dict[str, str] = parse_procfile(procfile.read_text()).processes
    for name, command in commands.items():
        if name not in without:
            manager.add_process(name, command)
    for number in (END_AT_ONCE, signal.SIGALRM):
        signal.signal(number, lambda number, frame: manager.kill_all())
    manager.loop()
    manager.kill_all()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
