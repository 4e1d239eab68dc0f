"""Starts schedulers in a fraction of a second: a process that has Airflow imported forks each of them.

``python -m tests.faults.zygote`` reads a JSON request from each line of its input (``args``, ``env``,
``log``), forks a process that is ``airflow scheduler ARGS`` with these variables and that log, and prints one
JSON line with its ``pid``; another one with its ``code`` when it has ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import select
import sys
from typing import Any


def _preload() -> None:
    for name in (
        "airflow.cli.commands.scheduler_command",
        "airflow.jobs.scheduler_job_runner",
        "asyncpg",
        "psycopg2",
        "async_scheduler.cli.scheduler_command",
        "async_scheduler.runner",
        "tests.faults.executor",
    ):
        importlib.import_module(name)


def _become_scheduler(request: dict[str, Any]) -> None:
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["env"])
    random.seed()  # else all schedulers would draw the same jitter
    sys.argv = ["airflow", "scheduler", "--skip-serve-logs", *request["args"]]
    from airflow.__main__ import main

    code = 0
    try:
        main()
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            sys.stderr.write(f"{leaving.code}\n")
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say(**what: int) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say(pid=pid, code=os.waitstatus_to_exitcode(status))


def main() -> None:
    """Serve until the end of the input."""
    _preload()
    gc.freeze()
    _say(ready=1)
    waiting = b""
    while True:
        _reap()
        if not select.select([0], [], [], 0.05)[0]:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if not pid:
                _become_scheduler(json.loads(line))
            _say(pid=pid)


if __name__ == "__main__":
    main()
