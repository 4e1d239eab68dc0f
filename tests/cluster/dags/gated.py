"""Tasks that run until a file appears, and write down each time that they run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG


def note(name: str) -> Path:
    """Append one line to the file *name* in the directory that the test names; return the directory."""
    directory = Path(os.environ["GATE_DIRECTORY"])
    with (directory / name).open("a") as file:
        file.write("ran\n")
    return directory


def wait_for_the_gate(name: str) -> None:
    directory = note(name)
    while not (directory / "open").exists():
        time.sleep(0.1)


with DAG("gated", schedule=None):
    before = PythonOperator.partial(task_id="before_the_gate", python_callable=wait_for_the_gate).expand(
        op_args=[["before_1"], ["before_2"], ["before_3"]]
    )
    after = PythonOperator(
        task_id="after_the_gate", python_callable=note, op_args=["after"], do_xcom_push=False
    )
    before >> after
