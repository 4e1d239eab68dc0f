"""The methods of Airflow's runner, by whose code they run in the facade."""

from __future__ import annotations

OURS = frozenset(
    {
        "_create_dag_runs",
        "_create_dagruns_for_dags",
        "_critical_section_enqueue_task_instances",
        "_do_scheduling",
        "_enqueue_task_instances_with_queued_state",
        "_executable_task_instances_to_queued",
        "_lock_backfills",
        "_process_executor_events",
        "_run_scheduler_loop",
        "_schedule_all_dag_runs",
        "_schedule_dag_run",
        "_set_exceeds_max_active_runs",
        "_start_queued_dagruns",
    }
)
"""Methods whose decisions are the redesigned coroutines'. Airflow's own bodies of these are never entered,
but where the redesign hands single runs, dags or events over to Airflow's code."""

INHERITED = frozenset(
    {
        "_activate_referenced_assets",
        "_cleanup_orphaned_asset_state_store",
        "_create_dag_runs_asset_triggered",
        "_create_dagruns_for_partitioned_asset_dags",
        "_debug_dump",
        "_emit_pool_metrics",
        "_emit_running_dags_metric",
        "_emit_ti_metrics",
        "_enqueue_connection_tests",
        "_enqueue_executor_callbacks",
        "_execute",
        "_executor_to_workloads",
        "_exit_gracefully",
        "_find_and_purge_task_instances_without_heartbeats",
        "_find_task_instances_without_heartbeats",
        "_generate_task_instance_heartbeat_timeout_message_details",
        "_get_current_dag",
        "_get_num_times_stuck_in_queued",
        "_get_team_names_for_dag_ids",
        "_get_tis_stuck_in_queued",
        "_get_workload_team_name",
        "_handle_tasks_stuck_in_queued",
        "_is_metrics_enabled",
        "_is_tracing_enabled",
        "_log_memory_usage",
        "_mark_backfills_complete",
        "_maybe_requeue_stuck_ti",
        "_orphan_unreferenced_assets",
        "_process_task_event_logs",
        "_purge_task_instances_without_heartbeats",
        "_reap_stale_connection_tests",
        "_remove_unreferenced_triggers",
        "_reschedule_stuck_task",
        "_resolve_asset_partition_status",
        "_resolve_partition_date",
        "_send_dag_callbacks_to_processor",
        "_stamp_team_names",
        "_try_to_load_executor",
        "_update_asset_orphanage",
        "_update_dag_run_state_for_paused_dags",
        "_verify_integrity_if_dag_changed",
        "_warn_unreachable_asset_partition",
        "adopt_or_reset_orphaned_tasks",
        "check_awaiting_input_timeouts",
        "check_trigger_timeouts",
        "heartbeat_callback",
        "process_executor_events",
        "register_signals",
    }
)
"""Methods that are Airflow's own: the scheduler itself runs them, as timers or for what it hands over."""
