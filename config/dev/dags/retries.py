"""Retries: one task succeeds at its second try, one fails at every try and takes the run with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

ONE_RETRY = {"retries": 1, "retry_delay": timedelta(seconds=1)}


@dag(schedule=None, tags=["retries", "fails on purpose"])
def retries() -> None:
    @task(**ONE_RETRY)
    def succeeds_at_second_try(**context: Any) -> None:
        if context["ti"].try_number == 1:
            raise RuntimeError("Fails on purpose: the second try succeeds")

    @task(**ONE_RETRY)
    def fails_at_every_try() -> None:
        raise RuntimeError("Fails on purpose: the run must fail with it")

    @task
    def never_runs() -> None:
        return None

    succeeds_at_second_try() >> fails_at_every_try() >> never_runs()


retries()
