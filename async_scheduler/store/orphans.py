"""What Airflow's adoption of orphaned task instances reads."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.models.taskinstance import TaskInstance
from sqlalchemy import event
from sqlalchemy.orm import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import ORMExecuteState, Session


@contextmanager
def whole_instances(session: Session) -> Iterator[None]:
    """Let queries of task instances on *session* load all columns while the block runs.

    ``adopt_or_reset_orphaned_tasks`` asks for seven of them, and then copies each instance that it resets
    into the history: one SELECT for each of the others, some thirty for each instance, under its lock. With
    a thousand orphans of a scheduler that was killed that takes minutes.
    """

    def load_all(execution: ORMExecuteState) -> None:
        mapper = execution.bind_mapper
        if execution.is_select and mapper is not None and mapper.class_ is TaskInstance:
            execution.statement = execution.statement.options(Load(TaskInstance).undefer("*"))

    event.listen(session, "do_orm_execute", load_all)
    try:
        yield
    finally:
        event.remove(session, "do_orm_execute", load_all)
