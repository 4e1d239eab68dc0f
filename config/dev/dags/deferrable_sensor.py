"""A sensor that gives its worker slot back and waits in the triggerer."""

from __future__ import annotations

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import dag, task

SOON = "{{ (macros.datetime.now(macros.dateutil.tz.UTC) + macros.timedelta(seconds=5)).isoformat() }}"


@dag(schedule=None, tags=["deferrable"])
def deferrable_sensor() -> None:
    @task
    def after_the_wait() -> str:
        return "the moment has come"

    DateTimeSensorAsync(task_id="wait_five_seconds", target_time=SOON) >> after_the_wait()


deferrable_sensor()
