"""A producer updates an asset; the scheduler then creates the consumer's run."""

from __future__ import annotations

from airflow.sdk import Asset, dag, task

ORDERS = Asset("demo://orders")


@dag(schedule=None, tags=["assets"])
def asset_producer() -> None:
    @task(outlets=[ORDERS])
    def write_orders() -> int:
        return 3

    write_orders()


@dag(schedule=[ORDERS], tags=["assets"])
def asset_consumer() -> None:
    @task
    def read_orders() -> int:
        return 3

    read_orders()


asset_producer()
asset_consumer()
