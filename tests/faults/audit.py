"""Triggers that write down every change of state of task instances, runs and jobs, and by whom.

And every asset that was put into the queue of a dag, or taken out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

INSTALL = """
CREATE TABLE fault_audit (
    seq bigserial PRIMARY KEY, at timestamptz NOT NULL, who text NOT NULL, kind text NOT NULL,
    row_key text NOT NULL, try_number int, was_id text, is_id text, was text, became text, job int,
    xact xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE FUNCTION fault_audit_ti() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO fault_audit (at, who, kind, row_key, try_number, was_id, is_id, was, became, job)
    VALUES (clock_timestamp(), current_setting('application_name'), 'ti',
            concat_ws('/', NEW.dag_id, NEW.run_id, NEW.task_id, NEW.map_index), NEW.try_number,
            OLD.id::text, NEW.id::text, OLD.state, NEW.state, NEW.queued_by_job_id);
    RETURN NULL; END $$;
CREATE FUNCTION fault_audit_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO fault_audit (at, who, kind, row_key, was, became)
    VALUES (clock_timestamp(), current_setting('application_name'), 'run',
            concat_ws('/', NEW.dag_id, NEW.run_id), OLD.state, NEW.state);
    RETURN NULL; END $$;
CREATE FUNCTION fault_audit_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO fault_audit (at, who, kind, row_key, was, became)
    VALUES (clock_timestamp(), current_setting('application_name'), 'job', NEW.id::text,
            OLD.state, NEW.state);
    RETURN NULL; END $$;
CREATE FUNCTION fault_audit_queue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO fault_audit (at, who, kind, row_key, was, became)
    VALUES (clock_timestamp(), current_setting('application_name'), 'queue',
            COALESCE(NEW.target_dag_id, OLD.target_dag_id), OLD.created_at::text, NEW.created_at::text);
    RETURN NULL; END $$;
CREATE TRIGGER fault_audit AFTER INSERT OR DELETE ON asset_dag_run_queue FOR EACH ROW
    EXECUTE FUNCTION fault_audit_queue();
CREATE TRIGGER fault_audit AFTER UPDATE ON task_instance FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.id IS DISTINCT FROM NEW.id)
    EXECUTE FUNCTION fault_audit_ti();
CREATE TRIGGER fault_audit AFTER UPDATE ON dag_run FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION fault_audit_run();
CREATE TRIGGER fault_audit AFTER UPDATE ON job FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION fault_audit_job();
"""


WHEN = "CASE kind WHEN 'job' THEN coalesce(pg_xact_commit_timestamp(xact::xid), at) ELSE at END"
"""A job is dead for others when that has committed, which may take its time after the statement."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row, in the order in which the server made them.

    ``at`` – when the statement ran; for jobs, when it was committed.
    """

    at: datetime
    who: str
    kind: str
    row_key: str
    try_number: int | None
    was_id: str | None
    is_id: str | None
    was: str | None
    became: str | None
    job: int | None

    @property
    def reset(self) -> bool:
        """Whether the task instance got a new identity without having failed: taken from the dead."""
        return self.was_id != self.is_id and self.became is None


def read_changes(engine: Engine) -> list[Change]:
    """Return everything that was written down."""
    columns = f"{WHEN}, {', '.join(list(Change.__dataclass_fields__)[1:])}"
    with engine.begin() as connection:
        rows: Any = connection.execute(text(f"SELECT {columns} FROM fault_audit ORDER BY seq"))
        return [Change(*row) for row in rows]
