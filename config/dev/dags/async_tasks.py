"""``@task async def``: many small waits share one worker slot, and variables are looked up by ``await``."""

from __future__ import annotations

import asyncio

from airflow.sdk import Variable, dag, task

from async_scheduler.secrets import aget_variable


@dag(schedule=None, tags=["async"])
def async_tasks() -> None:
    @task
    async def fetch_pages() -> list[int]:
        async def fetch(page: int) -> int:
            await asyncio.sleep(0.2)
            return page * page

        return list(await asyncio.gather(*(fetch(page) for page in range(50))))

    @task
    async def largest(pages: list[int]) -> int:
        await asyncio.sleep(0)
        return max(pages)

    @task
    def remember() -> None:
        Variable.set("async_tasks_greeting", "hello")

    @task
    async def look_up() -> list[str]:
        # Both at once, through the worker's supervisor: neither look-up blocks the other.
        found = await asyncio.gather(
            aget_variable("async_tasks_greeting"), aget_variable("async_tasks_missing", default="nothing")
        )
        if found != ["hello", "nothing"]:
            raise ValueError(f"Not what was stored: {found}")
        return list(found)

    largest(fetch_pages())
    remember() >> look_up()


async_tasks()
