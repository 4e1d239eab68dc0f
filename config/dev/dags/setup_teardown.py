"""Setup and teardown: the work fails, the teardown runs all the same, and the run fails for the work."""

from __future__ import annotations

from airflow.sdk import dag, setup, task, teardown


@dag(schedule=None, tags=["setup", "fails on purpose"])
def setup_teardown() -> None:
    @setup
    def rent_machine() -> str:
        return "machine-1"

    @task
    def work_that_succeeds() -> None:
        return None

    @task
    def work_that_fails() -> None:
        raise ValueError("Fails on purpose: the teardown must run nevertheless")

    @teardown
    def return_machine(machine: str) -> str:
        return machine

    machine = rent_machine()
    machine >> [work_that_succeeds(), work_that_fails()] >> return_machine(machine)


setup_teardown()
