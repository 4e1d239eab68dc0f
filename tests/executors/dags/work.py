"""Tasks that write down each time that they run, and where; some wait until a file appears."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG


def note(name: str) -> Path:
    """Append a line to the file *name* in the folder that the test names; return the folder.

    The line says whose the process is: the Celery worker's, or else the scheduler's own.
    """
    folder = Path(os.environ["WORK_DIRECTORY"])
    celery = any("[celeryd" in " ".join(parent.cmdline()) for parent in psutil.Process().parents())
    with (folder / name).open("a") as file:
        file.write(f"{'celery' if celery else 'local'}\n")
    return folder


def work(name: str) -> None:
    note(name)


def wait_for_the_gate(name: str) -> None:
    folder = note(name)
    while not (folder / "open").exists():
        time.sleep(0.1)


def task(name: str, body: object = work, **options: object) -> PythonOperator:
    return PythonOperator(task_id=name, python_callable=body, op_args=[name], **options)


with DAG("both", schedule=None):
    local, celery = {"executor": "LocalExecutor"}, {"executor": "CeleryExecutor"}
    first = [task("celery_1", **celery), task("celery_2", **celery), task("local_1", **local)]
    second = [task("local_2", **local), task("celery_3", **celery)]
    for one in second:
        first >> one
    second >> task("default")

with DAG("gated", schedule=None):
    before = [task(f"before_{number}", wait_for_the_gate) for number in range(4)]
    before >> task("after")

with DAG("many", schedule=None, max_active_runs=4):
    for lane in range(4):
        before_it = None
        for step in range(3):
            this = task(f"lane_{lane}_{step}")
            if before_it is not None:
                before_it >> this
            before_it = this
