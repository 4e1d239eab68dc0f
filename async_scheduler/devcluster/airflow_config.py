"""The ``airflow.cfg`` and the environment that every process of the cluster gets."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from async_scheduler.devcluster.data_directory import USER, DataDirectory, write_private

if TYPE_CHECKING:
    from async_scheduler.devcluster.embedded_postgres import PostgresServer

HOST = "127.0.0.1"
# What a user may still say with variables. Everything else (database, keys, paths) is the cluster's own.
OPEN_SECTIONS = ("ASYNC_SCHEDULER", "SCHEDULER", "METRICS")


def write_airflow_config(
    data: DataDirectory, shared: Path, dags: Path, server: PostgresServer, database: str, port: int
) -> None:
    """Write the cluster's ``airflow.cfg`` (mode 0600): *shared*, the settings in the repository, and its own.

    The simple auth manager's password file is written too: Airflow would make up a password and print it.
    """
    keys = data.keys()
    config = ConfigParser(interpolation=None)
    config.read_string(shared.read_text(), source=str(shared))
    own = {
        "core": {
            "dags_folder": str(dags),
            "fernet_key": keys.fernet_key,
            "execution_api_server_url": f"http://{HOST}:{port}/execution/",
            "simple_auth_manager_passwords_file": str(data.passwords_file),
        },
        "database": {
            "sql_alchemy_conn": server.url("psycopg2", database),
            "sql_alchemy_conn_async": server.url("asyncpg", database),
        },
        "api": {
            "host": HOST,
            "port": str(port),
            "base_url": f"http://localhost:{port}",
            "secret_key": keys.api_secret_key,
        },
        "api_auth": {"jwt_secret": keys.jwt_secret},
        "logging": {
            "base_log_folder": str(data.logs / "tasks"),
            "dag_processor_child_process_log_directory": str(data.logs / "dag_processor"),
        },
    }
    for section, options in own.items():
        if not config.has_section(section):
            config.add_section(section)
        for option, value in options.items():
            config.set(section, option, value.replace("%", "%%"))  # Airflow interpolates when it reads
    text = StringIO()
    config.write(text)
    write_private(data.airflow_config, text.getvalue())
    write_private(data.passwords_file, json.dumps({USER: keys.admin_password}))


def cluster_environment(
    data: DataDirectory, scheduler_flags: str, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the environment of the cluster's processes: *inherited* without foreign Airflow settings."""
    environment = {name: value for name, value in inherited.items() if _may_pass(name)}
    environment["AIRFLOW_HOME"] = str(data.root)
    environment["SCHEDULER_FLAGS"] = scheduler_flags
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), inherited.get("PATH", "")))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _may_pass(name: str) -> bool:
    if not name.startswith("AIRFLOW"):
        return True
    return name.startswith(tuple(f"AIRFLOW__{section}__" for section in OPEN_SECTIONS))
