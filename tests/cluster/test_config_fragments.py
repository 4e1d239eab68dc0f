"""The commented ``airflow.cfg`` fragments in ``config/``: they parse and hold only what is allowed."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from async_scheduler.devcluster.cluster import CHECKOUT
from async_scheduler.settings import OPTIONS, SECTION, Settings

FRAGMENTS = sorted((CHECKOUT / "config").glob("*.cfg"))
DRIVERS = {
    "postgresql-asyncpg": ("psycopg2", "asyncpg"),
    "postgresql-psycopg": ("psycopg2", "psycopg"),
    "mysql": ("mysqldb", "aiomysql"),
    "sqlite": ("pysqlite", "aiosqlite"),
}


def read(fragment: Path) -> ConfigParser:
    config = ConfigParser()
    config.read_string(fragment.read_text())
    return config


def test_there_is_one_for_each_driver() -> None:
    assert {fragment.stem for fragment in FRAGMENTS} == set(DRIVERS)


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.stem)
def test_the_connections_use_its_drivers(fragment: Path) -> None:
    database = read(fragment)["database"]
    drivers = tuple(
        make_url(database[name]).get_driver_name() for name in ("sql_alchemy_conn", "sql_alchemy_conn_async")
    )
    assert drivers == DRIVERS[fragment.stem]


@pytest.mark.parametrize(
    "fragment", [*FRAGMENTS, CHECKOUT / "config" / "dev" / "airflow.cfg"], ids=lambda path: path.stem
)
def test_its_scheduler_section_is_allowed(fragment: Path) -> None:
    values = dict(read(fragment)[SECTION])
    assert set(values) <= {option.name for option in OPTIONS}
    Settings.from_values(values)
