"""Builds executor workloads from queued rows, without an ORM object for each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.executors.workloads import ExecuteTask
from airflow.executors.workloads.base import BundleInfo
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.utils.helpers import log_filename_template_renderer

if TYPE_CHECKING:
    from async_scheduler.store.scheduled import QueuedRow


DEFAULT_LOG_TEMPLATE = (
    "dag_id={{ ti.dag_id }}/run_id={{ ti.run_id }}/task_id={{ ti.task_id }}/"
    "{% if ti.map_index >= 0 %}map_index={{ ti.map_index }}/{% endif %}"
    "attempt={{ try_number|default(ti.try_number) }}.log"
)
"""Airflow's default of ``[logging] log_filename_template``, which needs no template engine."""


class WorkloadFactory:
    """Makes what ``ExecuteTask.make`` makes. The configuration it reads per task is read once here."""

    def __init__(self) -> None:
        self._valid_for = conf.getfloat("scheduler", "task_queued_timeout")
        self._render = log_filename_template_renderer()
        self._is_default = conf.get("logging", "log_filename_template") == DEFAULT_LOG_TEMPLATE

    def make(self, row: QueuedRow, executor: Any) -> ExecuteTask:
        """Return the workload for *row*, signed for *executor*."""
        generator = executor.jwt_generator
        token = (
            generator.generate(extras={"sub": str(row.id), "scope": "workload"}, valid_for=self._valid_for)
            if generator
            else ""
        )
        return ExecuteTask(
            ti=_task_instance(row),
            dag_rel_path=Path(row.relative_fileloc or ""),
            token=token,
            log_path=self._log_path(row),
            bundle_info=BundleInfo(name=row.bundle_name, version=row.bundle_version),
            sentry_integration=_sentry_integration(executor),
        )

    def _log_path(self, row: QueuedRow) -> str:
        if self._is_default:
            index = f"map_index={row.map_index}/" if row.map_index >= 0 else ""
            where = f"dag_id={row.dag_id}/run_id={row.run_id}/task_id={row.task_id}"
            return f"{where}/{index}attempt={row.try_number}.log"
        run = SimpleNamespace(
            dag_id=row.dag_id, run_id=row.run_id, logical_date=row.logical_date, state=row.run_state
        )
        return str(self._render(ti=SimpleNamespace(**row._asdict(), dag_run=run)))


def _task_instance(row: QueuedRow) -> TaskInstanceDTO:
    return TaskInstanceDTO(
        id=row.id,
        task_id=row.task_id,
        dag_id=row.dag_id,
        run_id=row.run_id,
        try_number=row.try_number,
        dag_version_id=row.dag_version_id,
        map_index=row.map_index,
        hostname=row.hostname,
        context_carrier=row.context_carrier,
        queue=row.queue,
        pool_slots=row.pool_slots,
        priority_weight=row.priority_weight,
        external_executor_id=row.external_executor_id,
        executor_config=row.executor_config,
    )


def _sentry_integration(executor: Any) -> str:
    """``_get_sentry_integration`` of ``_enqueue_task_instances_with_queued_state``."""
    try:
        integration = executor.sentry_integration
    except AttributeError:
        if getattr(executor, "supports_sentry", False):
            return "sentry_sdk.integrations.celery.CeleryIntegration"
        return ""
    return integration if isinstance(integration, str) else ""
