"""What of the sync loop each stage routine mirrors; the interval timers are in ``timers.TIMERS``.

The tests hold this list against the installed Airflow, so that a release which adds a stage is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: the routine's name, the calls of the sync loop it stands for, and what it locks."""

    routine: str
    mirrors: tuple[str, ...]
    locks: str


STAGES: tuple[Stage, ...] = (
    Stage(
        "create",
        ("_create_dagruns_for_dags",),
        "dag NO KEY UPDATE SKIP LOCKED, 10; asset queue and partitions UPDATE SKIP LOCKED",
    ),
    Stage(
        "start",
        ("_start_queued_dagruns",),
        "dag_run NO KEY UPDATE SKIP LOCKED, 20; backfill UPDATE SKIP LOCKED",
    ),
    Stage(
        "schedule",
        (
            "get_running_dag_runs_to_examine",
            "_stamp_team_names",
            "_schedule_all_dag_runs",
            "_send_dag_callbacks_to_processor",
        ),
        "dag_run NO KEY UPDATE SKIP LOCKED, 20; task_instance and dag UPDATE, wait",
    ),
    Stage(
        "enqueue",
        ("_critical_section_enqueue_task_instances",),
        "advisory try-lock; slot_pool NO KEY UPDATE NOWAIT; task_instance NO KEY UPDATE SKIP LOCKED",
    ),
    Stage(
        "executor:<name>",
        ("heartbeat", "_process_executor_events", "_process_task_event_logs"),
        "task_instance NO KEY UPDATE SKIP LOCKED",
    ),
    Stage("deadlines", ("handle_miss",), "deadline UPDATE SKIP LOCKED"),
    Stage("executor_callbacks", ("_enqueue_executor_callbacks",), "none"),
    Stage(
        "connection_tests",
        ("_enqueue_connection_tests",),
        "connection_test_request NO KEY UPDATE SKIP LOCKED",
    ),
    Stage("heartbeat", ("perform_heartbeat",), "job UPDATE, waits"),
)
