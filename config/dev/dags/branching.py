"""A branch, the skipped side, and trigger rules that decide what runs after it."""

from __future__ import annotations

from airflow.sdk import TriggerRule, dag, task


@dag(schedule=None, tags=["branching"])
def branching() -> None:
    @task.branch
    def choose() -> str:
        return "taken"

    @task
    def taken() -> None:
        return None

    @task
    def not_taken() -> None:
        return None

    @task
    def skipped_after_it() -> None:
        return None

    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    def join() -> None:
        return None

    @task(trigger_rule=TriggerRule.ONE_FAILED)
    def only_after_a_failure() -> None:
        return None

    left, right = taken(), not_taken()
    after_right = skipped_after_it()
    choose() >> [left, right]
    right >> after_right
    [left, after_right] >> join()
    [left, after_right] >> only_after_a_failure()


branching()
