"""Dynamic task mapping: one task instance for each file that an earlier task found."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, tags=["mapping"])
def dynamic_mapping() -> None:
    @task
    def list_files() -> list[str]:
        return [f"part-{number}.csv" for number in range(5)]

    @task(max_active_tis_per_dagrun=3)
    def count_characters(name: str) -> int:
        return len(name)

    @task
    def add_up(counts: list[int]) -> int:
        return sum(counts)

    add_up(count_characters.expand(name=list_files()))


dynamic_mapping()
