"""A database that fails while the job's own row is written: one clear line, and a code that is not zero."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow.utils.session import create_session
from sqlalchemy import text

from tests.support.process import schedulers_on

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '53100'; END $$
"""


def test_job_that_cannot_be_written_at_the_start(airflow_db: Database, tmp_path: Path) -> None:
    with create_session() as session:
        session.execute(text(REFUSE))
        session.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON job FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    with schedulers_on(airflow_db, tmp_path) as schedulers:
        process = schedulers.start("--async")
        assert process.wait() == 1
    assert process.text.splitlines()[-1] == (
        "airflow scheduler --async: The scheduler's job could not be written: DiskFull: planted"
    )


def test_job_that_cannot_be_closed_in_the_end(airflow_db: Database, tmp_path: Path) -> None:
    with create_session() as session:
        session.execute(text(REFUSE))
        session.execute(
            text(
                "CREATE TRIGGER refuse BEFORE UPDATE ON job FOR EACH ROW"
                " WHEN (NEW.state <> 'running') EXECUTE FUNCTION refuse()"
            )
        )
        session.execute(text("DROP TABLE deadline CASCADE"))
    with schedulers_on(airflow_db, tmp_path) as schedulers:
        process = schedulers.start("--async")
        assert process.wait() == 1
    # Whichever asks for that table first.
    first = r"^airflow scheduler --async: Routine '(probe|deadlines)' failed: ProgrammingError"
    assert re.search(first, process.text, re.MULTILINE)
    assert process.text.splitlines()[-1] == (
        "airflow scheduler --async: The scheduler's job could not be written: DiskFull: planted"
    )
