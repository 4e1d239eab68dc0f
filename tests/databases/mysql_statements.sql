-- Every statement of async_scheduler/store as MySQL 8 would get it, for test_mysql_statements.py.
-- No MySQL 8 was at hand: these were read, not run. On MariaDB, which gets them without the locks, they run.
-- To renew: python -m tests.databases.mysql_statements > tests/databases/mysql_statements.sql

-- candidates.first
SELECT (SELECT count(*) AS count_1
FROM (SELECT task_instance.id AS id, task_instance.dag_id AS dag_id, task_instance.run_id AS run_id, task_instance.priority_weight AS priority_weight, task_instance.map_index AS map_index
FROM task_instance USE INDEX (ti_state)
WHERE task_instance.state = %s) AS waiting) AS anon_1, task_instance.id, task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.map_index, task_instance.pool, task_instance.pool_slots, task_instance.executor, dag.max_active_tasks, dag.has_task_concurrency_limits, dag_run.scheduled_by_job_id AS owner
FROM task_instance INNER JOIN dag_run ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id INNER JOIN dag ON dag.dag_id = task_instance.dag_id INNER JOIN (SELECT ranked.id AS id
FROM (SELECT waiting.id AS id, waiting.priority_weight AS priority_weight, dag_run.logical_date AS logical_date, waiting.map_index AS map_index, dag.max_active_tasks AS most, row_number() OVER (PARTITION BY waiting.dag_id, waiting.run_id ORDER BY waiting.priority_weight DESC, dag_run.logical_date, waiting.map_index, waiting.id) AS place
FROM (SELECT task_instance.id AS id, task_instance.dag_id AS dag_id, task_instance.run_id AS run_id, task_instance.priority_weight AS priority_weight, task_instance.map_index AS map_index
FROM task_instance USE INDEX (ti_state)
WHERE task_instance.state = %s) AS waiting INNER JOIN dag_run ON dag_run.dag_id = waiting.dag_id AND dag_run.run_id = waiting.run_id INNER JOIN dag ON dag.dag_id = waiting.dag_id
WHERE coalesce(dag_run.state, %s) IN (__[POSTCOMPILE_coalesce_2]) AND dag.is_paused = 0 AND dag.bundle_name IS NOT NULL AND (coalesce(dag_run.scheduled_by_job_id, %s) IN (__[POSTCOMPILE_owners])) = %s) AS ranked
WHERE ranked.most >= ranked.place ORDER BY ranked.priority_weight DESC, ranked.logical_date, ranked.map_index, ranked.id
 LIMIT %s) AS best ON best.id = task_instance.id
WHERE coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_5]) ORDER BY task_instance.priority_weight DESC, dag_run.logical_date, task_instance.map_index, task_instance.id FOR UPDATE OF task_instance SKIP LOCKED;

-- candidates.more
SELECT (SELECT count(*) AS count_1
FROM (SELECT task_instance.id AS id, task_instance.dag_id AS dag_id, task_instance.run_id AS run_id, task_instance.priority_weight AS priority_weight, task_instance.map_index AS map_index
FROM task_instance USE INDEX (ti_state)
WHERE task_instance.state = %s AND (task_instance.pool NOT IN (__[POSTCOMPILE_pools])) AND (coalesce(task_instance.executor, %s) NOT IN (__[POSTCOMPILE_executors])) AND ((task_instance.dag_id, task_instance.run_id) NOT IN (__[POSTCOMPILE_runs])) AND ((task_instance.dag_id, task_instance.task_id) NOT IN (__[POSTCOMPILE_tasks])) AND ((task_instance.dag_id, task_instance.run_id, task_instance.task_id) NOT IN (__[POSTCOMPILE_run_tasks]))) AS waiting) AS anon_1, task_instance.id, task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.map_index, task_instance.pool, task_instance.pool_slots, task_instance.executor, dag.max_active_tasks, dag.has_task_concurrency_limits, dag_run.scheduled_by_job_id AS owner
FROM task_instance INNER JOIN dag_run ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id INNER JOIN dag ON dag.dag_id = task_instance.dag_id INNER JOIN (SELECT ranked.id AS id
FROM (SELECT waiting.id AS id, waiting.priority_weight AS priority_weight, dag_run.logical_date AS logical_date, waiting.map_index AS map_index, dag.max_active_tasks AS most, row_number() OVER (PARTITION BY waiting.dag_id, waiting.run_id ORDER BY waiting.priority_weight DESC, dag_run.logical_date, waiting.map_index, waiting.id) AS place
FROM (SELECT task_instance.id AS id, task_instance.dag_id AS dag_id, task_instance.run_id AS run_id, task_instance.priority_weight AS priority_weight, task_instance.map_index AS map_index
FROM task_instance USE INDEX (ti_state)
WHERE task_instance.state = %s AND (task_instance.pool NOT IN (__[POSTCOMPILE_pools])) AND (coalesce(task_instance.executor, %s) NOT IN (__[POSTCOMPILE_executors])) AND ((task_instance.dag_id, task_instance.run_id) NOT IN (__[POSTCOMPILE_runs])) AND ((task_instance.dag_id, task_instance.task_id) NOT IN (__[POSTCOMPILE_tasks])) AND ((task_instance.dag_id, task_instance.run_id, task_instance.task_id) NOT IN (__[POSTCOMPILE_run_tasks]))) AS waiting INNER JOIN dag_run ON dag_run.dag_id = waiting.dag_id AND dag_run.run_id = waiting.run_id INNER JOIN dag ON dag.dag_id = waiting.dag_id
WHERE coalesce(dag_run.state, %s) IN (__[POSTCOMPILE_coalesce_3]) AND dag.is_paused = 0 AND dag.bundle_name IS NOT NULL AND (coalesce(dag_run.scheduled_by_job_id, %s) IN (__[POSTCOMPILE_owners])) = %s) AS ranked
WHERE ranked.most >= ranked.place ORDER BY ranked.priority_weight DESC, ranked.logical_date, ranked.map_index, ranked.id
 LIMIT %s) AS best ON best.id = task_instance.id
WHERE coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_6]) ORDER BY task_instance.priority_weight DESC, dag_run.logical_date, task_instance.map_index, task_instance.id FOR UPDATE OF task_instance SKIP LOCKED;

-- creation.active
SELECT dag_run.dag_id, count(*) AS count_1
FROM dag_run
WHERE dag_run.dag_id IN (__[POSTCOMPILE_dag_ids]) AND dag_run.state IN (__[POSTCOMPILE_state_1]) AND dag_run.run_type != %s GROUP BY dag_run.dag_id;

-- creation.due
SELECT dag.dag_id, dag.is_paused, dag.is_stale, dag.exceeds_max_non_backfill, dag.last_parsed_time, dag.last_parse_duration, dag.last_expired, dag.fileloc, dag.relative_fileloc, dag.bundle_name, dag.bundle_version, dag.owners, dag.dag_display_name, dag.description, dag.timetable_type, dag.timetable_summary, dag.timetable_description, dag.timetable_partitioned, dag.timetable_periodic, dag.partition_mapper_info, dag.asset_expression, dag.deadline, dag.max_active_tasks, dag.max_active_runs, dag.max_consecutive_failed_dag_runs, dag.has_task_concurrency_limits, dag.has_import_errors, dag.fail_fast, dag.allowed_run_types, dag.next_dagrun, dag.next_dagrun_data_interval_start, dag.next_dagrun_data_interval_end, dag.next_dagrun_partition_key, dag.next_dagrun_partition_date, dag.next_dagrun_create_after, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1, (SELECT serialized_dag.dag_hash
FROM serialized_dag
WHERE serialized_dag.dag_version_id = (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s)) AS anon_2
FROM dag
WHERE dag.is_paused = false AND dag.is_stale = false AND dag.has_import_errors = false AND dag.exceeds_max_non_backfill = false AND dag.next_dagrun_create_after <= now() ORDER BY dag.next_dagrun_create_after
 LIMIT %s FOR UPDATE OF dag SKIP LOCKED;

-- creation.existing
SELECT dag_run.id, dag_run.dag_id, dag_run.queued_at, dag_run.logical_date, dag_run.start_date, dag_run.end_date, dag_run.state, dag_run.run_id, dag_run.creating_job_id, dag_run.run_type, dag_run.triggered_by, dag_run.triggering_user_name, dag_run.conf, dag_run.data_interval_start, dag_run.data_interval_end, dag_run.run_after, dag_run.last_scheduling_decision, dag_run.log_template_id, dag_run.created_at, dag_run.updated_at, dag_run.clear_number, dag_run.backfill_id, dag_run.bundle_version, dag_run.scheduled_by_job_id, dag_run.context_carrier, dag_run.span_status, dag_run.created_dag_version_id, dag_run.partition_key, dag_run.partition_date
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id
WHERE dag_run.dag_id IN (__[POSTCOMPILE_dag_ids]) AND dag_run.logical_date >= dag.next_dagrun;

-- creation.instances
INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, start_date, end_date, duration, state, try_number, max_tries, hostname, unixname, pool, pool_slots, queue, priority_weight, operator, custom_operator_name, queued_dttm, scheduled_dttm, queued_by_job_id, last_heartbeat_at, pid, executor, executor_config, updated_at, rendered_map_index, context_carrier, span_status, external_executor_id, trigger_id, trigger_timeout, next_method, next_kwargs, task_display_name, dag_version_id, retry_delay_override, retry_reason) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s);

-- creation.log_template
SELECT max(log_template.id) AS max_1
FROM log_template;

-- creation.taken
SELECT dag_run.dag_id, dag_run.run_id
FROM dag_run
WHERE (dag_run.dag_id, dag_run.run_id) IN (__[POSTCOMPILE_runs]);

-- creation.work
SELECT EXISTS (SELECT 1
FROM dag
WHERE dag.is_paused = false AND dag.is_stale = false AND dag.has_import_errors = false AND dag.exceeds_max_non_backfill = false AND dag.next_dagrun_create_after <= now()) AS anon_1, (EXISTS (SELECT 1
FROM asset_dag_run_queue)) OR (EXISTS (SELECT 1
FROM asset_partition_dag_run
WHERE asset_partition_dag_run.created_dag_run_id IS NULL)) AS anon_2;

-- events.external_id
UPDATE task_instance SET updated_at=%s, external_executor_id=%s WHERE task_instance.dag_id = %s AND task_instance.task_id = %s AND task_instance.run_id = %s AND task_instance.map_index = %s;

-- events.reported
SELECT dag_run.id, task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.map_index, task_instance.id AS id_1, task_instance.state, task_instance.try_number, task_instance.max_tries, task_instance.queued_by_job_id, task_instance.start_date, task_instance.end_date, task_instance.duration, task_instance.pool, task_instance.queue, task_instance.priority_weight, task_instance.operator, task_instance.queued_dttm, task_instance.scheduled_dttm, task_instance.pid, task_instance.updated_at
FROM task_instance INNER JOIN dag_run ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id
WHERE task_instance.id IN (__[POSTCOMPILE_ids]);

-- events.reported_by_key
SELECT dag_run.id, task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.map_index, task_instance.id AS id_1, task_instance.state, task_instance.try_number, task_instance.max_tries, task_instance.queued_by_job_id, task_instance.start_date, task_instance.end_date, task_instance.duration, task_instance.pool, task_instance.queue, task_instance.priority_weight, task_instance.operator, task_instance.queued_dttm, task_instance.scheduled_dttm, task_instance.pid, task_instance.updated_at
FROM task_instance INNER JOIN dag_run ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id
WHERE (task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.map_index) IN (__[POSTCOMPILE_keys]);

-- events.rescheduled
SELECT DISTINCT task_reschedule.ti_id
FROM task_reschedule
WHERE task_reschedule.ti_id IN (__[POSTCOMPILE_ids]);

-- expansion.become_first
UPDATE task_instance SET map_index=%s, updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND task_instance.map_index = %s AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- expansion.end_unexpanded
UPDATE task_instance SET state=%s, updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND task_instance.map_index = %s AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- expansion.maps
DELETE FROM task_map WHERE EXISTS (SELECT 1
FROM task_instance
WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND task_map.dag_id = task_instance.dag_id AND task_map.task_id = task_instance.task_id AND task_map.run_id = task_instance.run_id AND task_map.map_index = task_instance.map_index);

-- expansion.notes
DELETE FROM task_instance_note WHERE task_instance_note.ti_id IN (__[POSTCOMPILE_ids]);

-- expansion.rendered
DELETE FROM rendered_task_instance_fields WHERE EXISTS (SELECT 1
FROM task_instance
WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND rendered_task_instance_fields.dag_id = task_instance.dag_id AND rendered_task_instance_fields.task_id = task_instance.task_id AND rendered_task_instance_fields.run_id = task_instance.run_id AND rendered_task_instance_fields.map_index = task_instance.map_index);

-- expansion.reschedules
DELETE FROM task_reschedule WHERE task_reschedule.ti_id IN (__[POSTCOMPILE_ids]);

-- expansion.unexpanded
SELECT task_instance.id, task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.dag_version_id, dag_run.context_carrier
FROM task_instance INNER JOIN dag_run ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id
WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND task_instance.map_index = %s;

-- expansion.xcoms
DELETE FROM xcom WHERE EXISTS (SELECT 1
FROM task_instance
WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND xcom.dag_id = task_instance.dag_id AND xcom.task_id = task_instance.task_id AND xcom.run_id = task_instance.run_id AND xcom.map_index = task_instance.map_index);

-- given.dags
SELECT dag.dag_id, dag.is_paused, dag.is_stale, dag.exceeds_max_non_backfill, dag.last_parsed_time, dag.last_parse_duration, dag.last_expired, dag.fileloc, dag.relative_fileloc, dag.bundle_name, dag.bundle_version, dag.owners, dag.dag_display_name, dag.description, dag.timetable_type, dag.timetable_summary, dag.timetable_description, dag.timetable_partitioned, dag.timetable_periodic, dag.partition_mapper_info, dag.asset_expression, dag.deadline, dag.max_active_tasks, dag.max_active_runs, dag.max_consecutive_failed_dag_runs, dag.has_task_concurrency_limits, dag.has_import_errors, dag.fail_fast, dag.allowed_run_types, dag.next_dagrun, dag.next_dagrun_data_interval_start, dag.next_dagrun_data_interval_end, dag.next_dagrun_partition_key, dag.next_dagrun_partition_date, dag.next_dagrun_create_after, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1, (SELECT serialized_dag.dag_hash
FROM serialized_dag
WHERE serialized_dag.dag_version_id = (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s)) AS anon_2
FROM dag
WHERE dag.dag_id IN (__[POSTCOMPILE_dag_ids]);

-- given.instances
SELECT task_instance.id, task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.map_index, task_instance.try_number, task_instance.dag_version_id, task_instance.hostname, task_instance.context_carrier, task_instance.queue, task_instance.pool_slots, task_instance.priority_weight, task_instance.executor, task_instance.executor_config, task_instance.external_executor_id, task_instance.scheduled_dttm, task_instance.end_date, dag.bundle_name, dag.relative_fileloc, dag_run.bundle_version, dag_run.logical_date, dag_run.state AS run_state, dag_run.id AS run, task_instance.state
FROM task_instance INNER JOIN dag ON dag.dag_id = task_instance.dag_id INNER JOIN dag_run ON dag_run.dag_id = task_instance.dag_id AND dag_run.run_id = task_instance.run_id
WHERE task_instance.id IN (__[POSTCOMPILE_ids]);

-- given.release
UPDATE task_instance SET start_date=coalesce(task_instance.start_date, %s), state=%s, updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) = %s;

-- given.runs
SELECT dag_run.id, dag_run.dag_id, dag_run.run_id, dag_run.run_type, dag_run.logical_date, dag_run.start_date, dag_run.clear_number, dag_run.bundle_version, dag_run.created_dag_version_id, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1, (SELECT backfill_dag_run.sort_ordinal
FROM backfill_dag_run
WHERE backfill_dag_run.dag_run_id = dag_run.id AND backfill_dag_run.backfill_id = dag_run.backfill_id
 LIMIT %s) AS anon_2, dag_run.scheduled_by_job_id, dag_run.state
FROM dag_run
WHERE dag_run.id IN (__[POSTCOMPILE_ids]) ORDER BY dag_run.id;

-- instances.failed_tries
SELECT task_instance.id, task_instance.try_number, task_instance.end_date, task_instance.retry_delay_override
FROM task_instance
WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- instances.first_starts
SELECT dag_run.id, (SELECT min(task_instance.start_date) AS min_1
FROM task_instance
WHERE task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2])) AS anon_1
FROM dag_run
WHERE dag_run.id IN (__[POSTCOMPILE_ids]);

-- instances.flag
UPDATE task_instance SET duration=(timestampdiff(MICROSECOND, coalesce(task_instance.start_date, %s), coalesce(task_instance.end_date, %s)) / %s), start_date=coalesce(task_instance.start_date, %s), end_date=coalesce(task_instance.end_date, %s), state=%s, updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) = %s;

-- instances.schedule
UPDATE task_instance SET try_number=CASE WHEN (task_instance.state = %s) THEN task_instance.try_number ELSE task_instance.try_number + %s END, state=%s, scheduled_dttm=%s, updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- instances.states
SELECT dag_run.id, task_instance.task_id, task_instance.state, CASE WHEN (task_instance.state IS NULL OR (task_instance.state NOT IN (__[POSTCOMPILE_state_1]))) THEN task_instance.id END AS anon_1, task_instance.map_index
FROM dag_run INNER JOIN task_instance ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id
WHERE dag_run.id IN (__[POSTCOMPILE_ids]);

-- instances.succeed
UPDATE task_instance SET start_date=%s, end_date=%s, duration=%s, state=%s, try_number=(task_instance.try_number + %s), updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- jobs.alive
SELECT job.id, job.executor_class
FROM job
WHERE job.job_type = %s AND job.state = %s AND job.latest_heartbeat >= %s;

-- jobs.job_state
SELECT job.state
FROM job
WHERE job.id = %s;

-- jobs.job_state_locked
SELECT job.state
FROM job
WHERE job.id = %s FOR UPDATE;

-- jobs.renew
UPDATE job SET state=%s, latest_heartbeat=%s, executor_class=%s WHERE job.id = %s;

-- jobs.succeed
UPDATE job SET state=%s WHERE job.id = %s AND job.state = %s;

-- limits.flip
UPDATE dag SET exceeds_max_non_backfill=dag.exceeds_max_non_backfill = 0 WHERE dag.dag_id IN (__[POSTCOMPILE_dag_ids]) AND dag.exceeds_max_non_backfill != ((SELECT count(*) AS count_1
FROM dag_run
WHERE dag_run.dag_id = dag.dag_id AND dag_run.state IN (__[POSTCOMPILE_state_1]) AND dag_run.run_type != %s) >= coalesce(dag.max_active_runs, %s));

-- limits.free
SELECT dag.dag_id
FROM dag
WHERE dag.dag_id IN (__[POSTCOMPILE_dag_ids]) ORDER BY dag.dag_id FOR UPDATE OF dag SKIP LOCKED;

-- limits.held_back
SELECT dag.dag_id
FROM dag
WHERE dag.exceeds_max_non_backfill = true AND dag.is_paused = false AND dag.next_dagrun_create_after <= now() AND (SELECT count(*) AS count_1
FROM dag_run
WHERE dag_run.dag_id = dag.dag_id AND dag_run.state IN (__[POSTCOMPILE_state_1]) AND dag_run.run_type != %s) < coalesce(dag.max_active_runs, %s) ORDER BY dag.dag_id FOR UPDATE OF dag SKIP LOCKED;

-- limits.wrong
SELECT dag.dag_id
FROM dag
WHERE dag.dag_id IN (__[POSTCOMPILE_dag_ids]) AND dag.exceeds_max_non_backfill != ((SELECT count(*) AS count_1
FROM dag_run
WHERE dag_run.dag_id = dag.dag_id AND dag_run.state IN (__[POSTCOMPILE_state_1]) AND dag_run.run_type != %s) >= coalesce(dag.max_active_runs, %s));

-- pools.active
SELECT task_instance.dag_id, task_instance.task_id, task_instance.run_id, count(*) AS count_1
FROM task_instance
WHERE task_instance.dag_id IN (__[POSTCOMPILE_dag_ids]) AND task_instance.state IN (__[POSTCOMPILE_state_1]) GROUP BY task_instance.dag_id, task_instance.task_id, task_instance.run_id;

-- pools.lock
SELECT slot_pool.pool, slot_pool.slots, slot_pool.include_deferred
FROM slot_pool ORDER BY slot_pool.id FOR UPDATE OF slot_pool NOWAIT;

-- pools.occupied
SELECT task_instance.pool, task_instance.dag_id, task_instance.run_id, task_instance.state, count(*) AS count_1, sum(task_instance.pool_slots) AS sum_1, min(dag.max_active_tasks) AS min_1
FROM task_instance LEFT OUTER JOIN dag ON dag.dag_id = task_instance.dag_id
WHERE task_instance.state IN (__[POSTCOMPILE_state_1]) GROUP BY task_instance.pool, task_instance.dag_id, task_instance.run_id, task_instance.state;

-- queued.backfills
SELECT backfill.id
FROM backfill
WHERE backfill.id IN (__[POSTCOMPILE_ids]) ORDER BY backfill.id FOR UPDATE SKIP LOCKED;

-- queued.claim
SELECT dag_run.id, dag_run.dag_id, dag_run.run_id, dag_run.run_type, dag_run.run_after, dag_run.triggered_by, dag_run.clear_number, dag_run.backfill_id, dag_run.bundle_version, dag_run.created_dag_version_id, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1, chosen.number
FROM dag_run INNER JOIN (SELECT best.id AS id, best.position AS position, count(*) OVER () AS number
FROM (SELECT ranked.id AS id, row_number() OVER (ORDER BY ranked.ordinal, ranked.decision, ranked.active, ranked.run_after, ranked.id) AS position
FROM (SELECT dag_run.id AS id, dag_run.dag_id AS dag_id, row_number() OVER (PARTITION BY dag_run.dag_id, dag_run.backfill_id ORDER BY backfill_dag_run.sort_ordinal, dag_run.last_scheduling_decision, dag_run.run_after, dag_run.id) AS place, coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) AS free, backfill_dag_run.sort_ordinal AS ordinal, dag_run.last_scheduling_decision AS decision, coalesce(running_runs.running, %s) AS active, dag_run.run_after AS run_after
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id AND dag.is_paused = false AND dag.is_stale = false LEFT OUTER JOIN backfill_dag_run ON backfill_dag_run.dag_run_id = dag_run.id AND backfill_dag_run.backfill_id = dag_run.backfill_id LEFT OUTER JOIN backfill ON backfill.id = backfill_dag_run.backfill_id LEFT OUTER JOIN (SELECT dag_run.dag_id AS dag_id, dag_run.backfill_id AS backfill_id, count(*) AS running
FROM dag_run
WHERE dag_run.state = %s GROUP BY dag_run.dag_id, dag_run.backfill_id) AS running_runs ON running_runs.dag_id = dag_run.dag_id AND coalesce(running_runs.backfill_id, %s) = coalesce(dag_run.backfill_id, %s)
WHERE dag_run.state = %s AND dag_run.run_after <= now() AND coalesce(backfill.is_paused, false) = false AND coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) > %s) AS ranked
WHERE ranked.place <= ranked.free AND (ranked.id %% %s = %s OR ranked.dag_id IN (__[POSTCOMPILE_room])) ORDER BY ranked.ordinal, ranked.decision, ranked.active, ranked.run_after, ranked.id
 LIMIT %s) AS best) AS chosen ON chosen.id = dag_run.id
WHERE dag_run.state = %s ORDER BY chosen.position FOR UPDATE OF dag_run SKIP LOCKED;

-- queued.claim_in_room
SELECT dag_run.id, dag_run.dag_id, dag_run.run_id, dag_run.run_type, dag_run.run_after, dag_run.triggered_by, dag_run.clear_number, dag_run.backfill_id, dag_run.bundle_version, dag_run.created_dag_version_id, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1, chosen.number
FROM dag_run INNER JOIN (SELECT best.id AS id, best.position AS position, count(*) OVER () AS number
FROM (SELECT ranked.id AS id, row_number() OVER (ORDER BY ranked.ordinal, ranked.decision, ranked.active, ranked.run_after, ranked.id) AS position
FROM (SELECT dag_run.id AS id, dag_run.dag_id AS dag_id, row_number() OVER (PARTITION BY dag_run.dag_id, dag_run.backfill_id ORDER BY backfill_dag_run.sort_ordinal, dag_run.last_scheduling_decision, dag_run.run_after, dag_run.id) AS place, coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) AS free, backfill_dag_run.sort_ordinal AS ordinal, dag_run.last_scheduling_decision AS decision, coalesce(running_runs.running, %s) AS active, dag_run.run_after AS run_after
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id AND dag.is_paused = false AND dag.is_stale = false LEFT OUTER JOIN backfill_dag_run ON backfill_dag_run.dag_run_id = dag_run.id AND backfill_dag_run.backfill_id = dag_run.backfill_id LEFT OUTER JOIN backfill ON backfill.id = backfill_dag_run.backfill_id LEFT OUTER JOIN (SELECT dag_run.dag_id AS dag_id, dag_run.backfill_id AS backfill_id, count(*) AS running
FROM dag_run
WHERE dag_run.state = %s AND dag_run.dag_id IN (__[POSTCOMPILE_room]) GROUP BY dag_run.dag_id, dag_run.backfill_id) AS running_runs ON running_runs.dag_id = dag_run.dag_id AND coalesce(running_runs.backfill_id, %s) = coalesce(dag_run.backfill_id, %s)
WHERE dag_run.state = %s AND dag_run.run_after <= now() AND coalesce(backfill.is_paused, false) = false AND coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) > %s AND dag_run.dag_id IN (__[POSTCOMPILE_room])) AS ranked
WHERE ranked.place <= ranked.free ORDER BY ranked.ordinal, ranked.decision, ranked.active, ranked.run_after, ranked.id
 LIMIT %s) AS best) AS chosen ON chosen.id = dag_run.id
WHERE dag_run.state = %s ORDER BY chosen.position FOR UPDATE OF dag_run SKIP LOCKED;

-- queued.start
UPDATE dag_run SET start_date=%s, end_date=%s, state=%s, updated_at=%s WHERE dag_run.id IN (__[POSTCOMPILE_started]) AND dag_run.state = %s;

-- queued.still_queued
SELECT EXISTS (SELECT dag_run.id
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id AND dag.is_paused = false AND dag.is_stale = false
WHERE dag_run.state = %s AND dag_run.run_after <= now()) AS anon_1, EXISTS (SELECT ranked.id
FROM (SELECT dag_run.id AS id, dag_run.dag_id AS dag_id, row_number() OVER (PARTITION BY dag_run.dag_id, dag_run.backfill_id ORDER BY backfill_dag_run.sort_ordinal, dag_run.last_scheduling_decision, dag_run.run_after, dag_run.id) AS place, coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) AS free, backfill_dag_run.sort_ordinal AS ordinal, dag_run.last_scheduling_decision AS decision, coalesce(running_runs.running, %s) AS active, dag_run.run_after AS run_after
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id AND dag.is_paused = false AND dag.is_stale = false LEFT OUTER JOIN backfill_dag_run ON backfill_dag_run.dag_run_id = dag_run.id AND backfill_dag_run.backfill_id = dag_run.backfill_id LEFT OUTER JOIN backfill ON backfill.id = backfill_dag_run.backfill_id LEFT OUTER JOIN (SELECT dag_run.dag_id AS dag_id, dag_run.backfill_id AS backfill_id, count(*) AS running
FROM dag_run
WHERE dag_run.state = %s GROUP BY dag_run.dag_id, dag_run.backfill_id) AS running_runs ON running_runs.dag_id = dag_run.dag_id AND coalesce(running_runs.backfill_id, %s) = coalesce(dag_run.backfill_id, %s)
WHERE dag_run.state = %s AND dag_run.run_after <= now() AND coalesce(backfill.is_paused, false) = false AND coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) > %s) AS ranked
WHERE ranked.place <= ranked.free AND (ranked.id %% %s = %s OR ranked.dag_id IN (__[POSTCOMPILE_room]))) AS anon_2;

-- queued.still_queued_in_room
SELECT EXISTS (SELECT dag_run.id
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id AND dag.is_paused = false AND dag.is_stale = false
WHERE dag_run.state = %s AND dag_run.run_after <= now()) AS anon_1, EXISTS (SELECT ranked.id
FROM (SELECT dag_run.id AS id, dag_run.dag_id AS dag_id, row_number() OVER (PARTITION BY dag_run.dag_id, dag_run.backfill_id ORDER BY backfill_dag_run.sort_ordinal, dag_run.last_scheduling_decision, dag_run.run_after, dag_run.id) AS place, coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) AS free, backfill_dag_run.sort_ordinal AS ordinal, dag_run.last_scheduling_decision AS decision, coalesce(running_runs.running, %s) AS active, dag_run.run_after AS run_after
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id AND dag.is_paused = false AND dag.is_stale = false LEFT OUTER JOIN backfill_dag_run ON backfill_dag_run.dag_run_id = dag_run.id AND backfill_dag_run.backfill_id = dag_run.backfill_id LEFT OUTER JOIN backfill ON backfill.id = backfill_dag_run.backfill_id LEFT OUTER JOIN (SELECT dag_run.dag_id AS dag_id, dag_run.backfill_id AS backfill_id, count(*) AS running
FROM dag_run
WHERE dag_run.state = %s AND dag_run.dag_id IN (__[POSTCOMPILE_room]) GROUP BY dag_run.dag_id, dag_run.backfill_id) AS running_runs ON running_runs.dag_id = dag_run.dag_id AND coalesce(running_runs.backfill_id, %s) = coalesce(dag_run.backfill_id, %s)
WHERE dag_run.state = %s AND dag_run.run_after <= now() AND coalesce(backfill.is_paused, false) = false AND coalesce(backfill.max_active_runs, dag.max_active_runs) - coalesce(running_runs.running, %s) > %s AND dag_run.dag_id IN (__[POSTCOMPILE_room])) AS ranked
WHERE ranked.place <= ranked.free) AS anon_2;

-- running.claim
SELECT dag_run.id, dag_run.dag_id, dag_run.run_id, dag_run.run_type, dag_run.logical_date, dag_run.start_date, dag_run.clear_number, dag_run.bundle_version, dag_run.created_dag_version_id, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1, (SELECT backfill_dag_run.sort_ordinal
FROM backfill_dag_run
WHERE backfill_dag_run.dag_run_id = dag_run.id AND backfill_dag_run.backfill_id = dag_run.backfill_id
 LIMIT %s) AS anon_2, dag_run.scheduled_by_job_id
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id
WHERE dag_run.id IN (__[POSTCOMPILE_ids]) AND dag_run.state = %s AND dag_run.run_after <= now() AND dag.is_paused = false AND dag.is_stale = false ORDER BY dag_run.id FOR UPDATE OF dag_run SKIP LOCKED;

-- running.close
UPDATE dag_run SET end_date=%s, state=%s, updated_at=%s WHERE dag_run.id IN (__[POSTCOMPILE_closed]) AND dag_run.state = %s;

-- running.due
SELECT dag_run.id
FROM dag_run USE INDEX (idx_dag_run_running_dags) INNER JOIN dag ON dag.dag_id = dag_run.dag_id
WHERE dag_run.state = %s AND dag_run.run_after <= now() AND dag.is_paused = false AND dag.is_stale = false;

-- running.examined
SELECT dag_run.scheduled_by_job_id, max(dag_run.last_scheduling_decision) AS max_1
FROM dag_run
WHERE dag_run.state = %s AND dag_run.scheduled_by_job_id IN (__[POSTCOMPILE_owners]) GROUP BY dag_run.scheduled_by_job_id;

-- running.fingerprint
SELECT dag_run.id, dag_run.scheduled_by_job_id, dag_run.last_scheduling_decision, count(CASE WHEN (coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2])) THEN CAST(unix_timestamp(task_instance.updated_at) * %s AS SIGNED INTEGER) END) AS count_1, sum(CASE WHEN (coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2])) THEN CAST(unix_timestamp(task_instance.updated_at) * %s AS SIGNED INTEGER) END) AS sum_1, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id LEFT OUTER JOIN task_instance ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id
WHERE dag_run.state = %s AND dag_run.run_after <= now() AND dag.is_paused = false AND dag.is_stale = false AND (coalesce(dag_run.scheduled_by_job_id, %s) NOT IN (__[POSTCOMPILE_owners])) GROUP BY dag_run.id;

-- running.touch
UPDATE dag_run SET last_scheduling_decision=%s, updated_at=%s, scheduled_by_job_id=CASE WHEN (dag_run.id IN (__[POSTCOMPILE_kept])) THEN dag_run.scheduled_by_job_id ELSE %s END WHERE dag_run.id IN (__[POSTCOMPILE_touched]);

-- running.unverified
SELECT dag_run.id
FROM dag_run
WHERE dag_run.id IN (__[POSTCOMPILE_ids]) AND NOT (EXISTS (SELECT 1
FROM task_instance
WHERE task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id AND task_instance.dag_version_id = (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s))) AND NOT (EXISTS (SELECT 1
FROM task_instance_history
WHERE task_instance_history.dag_id = dag_run.dag_id AND task_instance_history.run_id = dag_run.run_id AND task_instance_history.dag_version_id = (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s)));

-- scheduled.existing
SELECT task_instance.id
FROM task_instance
WHERE task_instance.id IN (__[POSTCOMPILE_ids]);

-- scheduled.fail
UPDATE task_instance SET state=%s, updated_at=%s WHERE task_instance.dag_id IN (__[POSTCOMPILE_dag_ids]) AND task_instance.state = %s;

-- scheduled.leftover
SELECT EXISTS (SELECT 1
FROM task_instance
WHERE task_instance.state = %s) AS anon_1;

-- scheduled.limited
SELECT DISTINCT dag_run.dag_id, dag_run.bundle_version, dag_run.created_dag_version_id, (SELECT dag_version.id
FROM dag_version
WHERE dag_version.dag_id = dag_run.dag_id ORDER BY dag_version.version_number DESC
 LIMIT %s) AS anon_1
FROM dag_run
WHERE dag_run.dag_id IN (__[POSTCOMPILE_dag_ids]) AND dag_run.state = %s;

-- scheduled.owners
SELECT task_instance.id, task_instance.state, task_instance.queued_by_job_id
FROM task_instance
WHERE task_instance.id IN (__[POSTCOMPILE_ids]) ORDER BY task_instance.id FOR UPDATE OF task_instance SKIP LOCKED;

-- scheduled.queue
UPDATE task_instance SET state=%s, queued_dttm=%s, queued_by_job_id=%s, updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- scheduled.queue_preassigned
UPDATE task_instance SET state=%s, queued_dttm=%s, queued_by_job_id=%s, updated_at=%s, external_executor_id=CASE WHEN (%s = %s OR task_instance.executor IN (__[POSTCOMPILE_names]) OR task_instance.executor IS NULL AND %s = %s) THEN CAST(UUID() AS CHAR) ELSE task_instance.external_executor_id END WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- scheduled.queued
SELECT task_instance.id, task_instance.dag_id, task_instance.task_id, task_instance.run_id, task_instance.map_index, task_instance.try_number, task_instance.dag_version_id, task_instance.hostname, task_instance.context_carrier, task_instance.queue, task_instance.pool_slots, task_instance.priority_weight, task_instance.executor, task_instance.executor_config, task_instance.external_executor_id, task_instance.scheduled_dttm, task_instance.end_date, dag.bundle_name, dag.relative_fileloc, dag_run.bundle_version, dag_run.logical_date, dag_run.state AS run_state, dag_run.id AS run
FROM task_instance INNER JOIN dag ON dag.dag_id = task_instance.dag_id INNER JOIN dag_run ON dag_run.dag_id = task_instance.dag_id AND dag_run.run_id = task_instance.run_id
WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- scheduled.release
UPDATE task_instance SET start_date=coalesce(task_instance.start_date, %s), state=%s, updated_at=%s WHERE task_instance.id IN (__[POSTCOMPILE_ids]) AND coalesce(task_instance.state, %s) IN (__[POSTCOMPILE_coalesce_2]);

-- sole.beat
UPDATE job SET latest_heartbeat=%s WHERE job.id = %s;

-- sole.earlier
SELECT job.id, job.hostname, job.latest_heartbeat
FROM job
WHERE job.job_type = %s AND job.state = %s AND job.id < %s AND job.latest_heartbeat >= %s ORDER BY job.id;

-- versions.hashes
SELECT serialized_dag.dag_version_id, serialized_dag.dag_hash
FROM serialized_dag
WHERE serialized_dag.dag_version_id IN (__[POSTCOMPILE_versions]);

-- versions.serialized
SELECT serialized_dag.id, serialized_dag.dag_id, serialized_dag.data, serialized_dag.data_compressed, serialized_dag.created_at, serialized_dag.last_updated, serialized_dag.dag_hash, serialized_dag.dag_version_id
FROM serialized_dag
WHERE serialized_dag.dag_version_id IN (__[POSTCOMPILE_versions]);

-- waiting.waiting
SELECT queued.runs, queued.last, (SELECT count(*) AS count_1
FROM dag
WHERE dag.is_paused = false AND dag.is_stale = false AND dag.has_import_errors = false AND dag.exceeds_max_non_backfill = false AND dag.next_dagrun_create_after <= now()) AS anon_1, (EXISTS (SELECT 1
FROM asset_dag_run_queue)) OR (EXISTS (SELECT 1
FROM asset_partition_dag_run
WHERE asset_partition_dag_run.created_dag_run_id IS NULL)) AS anon_2, EXISTS (SELECT 1
FROM task_instance
WHERE task_instance.state = %s) AS anon_3, EXISTS (SELECT 1
FROM deadline
WHERE deadline.deadline_time < now() AND deadline.missed = false) AS anon_4, EXISTS (SELECT 1
FROM callback
WHERE callback.type = %s AND callback.state = %s) AS anon_5, EXISTS (SELECT 1
FROM connection_test_request
WHERE connection_test_request.state = %s) AS anon_6, (SELECT count(*) + count(job.executor_class) AS anon_8
FROM job
WHERE job.job_type = %s AND job.state = %s AND job.latest_heartbeat >= %s) AS anon_7, EXISTS (SELECT dag_run.id
FROM dag_run USE INDEX (idx_dag_run_running_dags) INNER JOIN dag ON dag.dag_id = dag_run.dag_id
WHERE dag_run.state = %s AND dag_run.run_after <= now() AND dag.is_paused = false AND dag.is_stale = false) AS anon_9, (SELECT job.state
FROM job
WHERE job.id = %s) AS anon_10
FROM (SELECT count(*) AS runs, max(dag_run.queued_at) AS last
FROM dag_run INNER JOIN dag ON dag.dag_id = dag_run.dag_id AND dag.is_paused = false AND dag.is_stale = false
WHERE dag_run.state = %s AND dag_run.run_after <= now()) AS queued;

-- waits.decisions
SELECT xcom.dag_run_id, xcom.task_id, xcom.map_index, xcom.value
FROM xcom
WHERE xcom.dag_run_id IN (__[POSTCOMPILE_ids]) AND xcom.`key` = %s;

-- waits.lengths
SELECT dag_run.id, task_map.task_id, task_map.length
FROM task_map INNER JOIN dag_run ON task_map.dag_id = dag_run.dag_id AND task_map.run_id = dag_run.run_id
WHERE dag_run.id IN (__[POSTCOMPILE_ids]) AND task_map.map_index < %s;

-- waits.previous
SELECT dag_run.id, dag_run.run_id, dag_run.logical_date
FROM dag_run
WHERE dag_run.dag_id = %s AND dag_run.logical_date < %s AND (%s = %s OR dag_run.run_type != %s) ORDER BY dag_run.logical_date DESC
 LIMIT %s;

-- waits.reschedules
SELECT task_reschedule.ti_id, task_reschedule.reschedule_date
FROM task_reschedule INNER JOIN (SELECT max(task_reschedule.id) AS id
FROM task_reschedule
WHERE task_reschedule.ti_id IN (__[POSTCOMPILE_ids]) GROUP BY task_reschedule.ti_id) AS anon_1 ON task_reschedule.id = anon_1.id;

-- waits.returned
SELECT xcom.dag_run_id, xcom.task_id, count(*) AS count_1
FROM xcom
WHERE xcom.dag_run_id IN (__[POSTCOMPILE_ids]) AND xcom.`key` = %s AND xcom.map_index >= %s GROUP BY xcom.dag_run_id, xcom.task_id;

-- waits.seen_before
SELECT DISTINCT task_instance.task_id
FROM task_instance INNER JOIN dag_run ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id
WHERE (task_instance.dag_id, task_instance.task_id) IN (__[POSTCOMPILE_tasks]) AND dag_run.logical_date < %s;

-- waits.unsuccessful
SELECT task_instance.task_id, sum(CASE WHEN (task_instance.state IN (__[POSTCOMPILE_state_1])) THEN %s ELSE %s END) AS sum_1
FROM task_instance
WHERE task_instance.dag_id = %s AND task_instance.run_id = %s GROUP BY task_instance.task_id;
