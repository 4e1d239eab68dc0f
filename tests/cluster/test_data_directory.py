"""The files of a cluster: private, kept from one start to the next, used by one cluster at a time."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from async_scheduler.devcluster.airflow_config import cluster_environment, write_airflow_config
from async_scheduler.devcluster.cluster import CHECKOUT
from async_scheduler.devcluster.data_directory import DataDirectory, Keys
from async_scheduler.devcluster.embedded_postgres import PostgresServer
from async_scheduler.devcluster.problem import ClusterProblem

SETTINGS = CHECKOUT / "config" / "dev" / "airflow.cfg"


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "cluster")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_made_once_and_kept(data: DataDirectory) -> None:
    with data.held():
        keys = data.keys()
        assert data.keys() == keys
    Fernet(keys.fernet_key.encode())
    assert len(set(asdict(keys).values())) == 4


def test_no_key_shows_in_a_repr() -> None:
    keys = Keys.generate()
    assert not [value for value in asdict(keys).values() if value in repr(keys)]


def test_everything_secret_is_readable_by_its_owner_only(data: DataDirectory) -> None:
    data.root.mkdir(mode=0o755)
    with data.held():
        write_airflow_config(data, SETTINGS, Path("/dags"), PostgresServer(Path("/sockets")), "demo", 8080)
        secret = [json.loads((data.root / "keys.json").read_text())["jwt_secret"]]
        files = [path for path in data.root.iterdir() if path.is_file()]
        assert mode(data.root) == mode(data.logs) == 0o700
        assert {path.name: mode(path) for path in files} == dict.fromkeys(
            ("keys.json", "lock", "airflow.cfg", "passwords.json"), 0o600
        )
        assert secret[0] in data.airflow_config.read_text()


def test_damaged_keys_are_told_not_replaced(data: DataDirectory) -> None:
    with data.held():
        data.keys()
        (data.root / "keys.json").write_text("{")
        with pytest.raises(ClusterProblem, match="is damaged"):
            data.keys()
        assert (data.root / "keys.json").read_text() == "{"


def test_two_clusters_cannot_share_it(data: DataDirectory) -> None:
    with data.held():
        data.root.chmod(0o711)
        with pytest.raises(ClusterProblem, match="Another cluster is running"), data.held():
            pass
        assert mode(data.root) == 0o711  # the second one has touched nothing


def test_only_settings_of_the_schedulers_come_from_outside(data: DataDirectory) -> None:
    outside = {
        "HOME": "/home/me",
        "PATH": "/usr/bin",
        "AIRFLOW_HOME": "/elsewhere",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://",
        "AIRFLOW__CORE__FERNET_KEY": "x",
        "AIRFLOW__ASYNC_SCHEDULER__MODE": "sequential",
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "64",
    }
    environment = cluster_environment(data, "--async", outside)
    assert environment["AIRFLOW_HOME"] == str(data.root)
    assert environment["PATH"].endswith("/usr/bin")
    assert {name for name in environment if name.startswith("AIRFLOW__")} == {
        "AIRFLOW__ASYNC_SCHEDULER__MODE",
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY",
    }
