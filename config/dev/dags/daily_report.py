"""A timetable: the scheduler creates one run for each of three past days, two at a time."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import dag, task


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    end_date=datetime(2026, 1, 3, tzinfo=UTC),
    catchup=True,
    max_active_runs=2,
    tags=["timetable"],
)
def daily_report() -> None:
    @task
    def extract() -> list[int]:
        return [3, 1, 2]

    @task
    def report(amounts: list[int]) -> int:
        return sum(amounts)

    report(extract())


daily_report()
