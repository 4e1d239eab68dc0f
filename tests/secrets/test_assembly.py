"""Chains made from Airflow's configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from airflow import configuration
from airflow.models import Connection
from airflow.providers.hashicorp.secrets.vault import VaultBackend
from airflow.sdk import Connection as TaskConnection
from airflow.secrets.environment_variables import EnvironmentVariablesBackend
from airflow.secrets.local_filesystem import LocalFilesystemBackend
from airflow.secrets.metastore import MetastoreBackend

from async_scheduler.errors import InvalidSetting
from async_scheduler.provider import SECRETS_BACKENDS, get_provider_info
from async_scheduler.secrets.adapter import AsyncBackendAdapter
from async_scheduler.secrets.assembly import make_async, make_chain
from async_scheduler.secrets.environment import AsyncEnvironmentVariablesBackend
from async_scheduler.secrets.local_file import AsyncLocalFilesystemBackend
from async_scheduler.secrets.metastore import AsyncMetastoreBackend
from async_scheduler.secrets.threads import DaemonThreads
from async_scheduler.secrets.vault import AsyncVaultBackend
from async_scheduler.settings import Settings

SETTINGS = Settings()


def _use(monkeypatch: pytest.MonkeyPatch, path: str, **kwargs: Any) -> None:
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", path)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))


async def _kinds(settings: Settings = SETTINGS) -> list[str]:
    chain = make_chain(settings)
    await chain.aclose()
    return [type(backend).__name__ for backend in chain.backends]


async def test_the_order_is_airflows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _kinds() == ["AsyncEnvironmentVariablesBackend", "AsyncMetastoreBackend"]
    _use(monkeypatch, "async_scheduler.secrets.vault.AsyncVaultBackend", token="t", url="http://vault")
    assert (await _kinds())[0] == "AsyncVaultBackend"


async def test_backends_order_is_followed_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, "airflow.secrets.local_filesystem.LocalFilesystemBackend")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKENDS_ORDER", "environment_variable, custom,metastore")
    assert await _kinds() == [
        "AsyncEnvironmentVariablesBackend",
        "AsyncLocalFilesystemBackend",
        "AsyncMetastoreBackend",
    ]


@pytest.mark.parametrize(
    "order", ["", "metastore", "environment_variable,metastore,metastore", "custom,vault"]
)
async def test_a_wrong_order_is_refused(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKENDS_ORDER", order)
    with pytest.raises(InvalidSetting, match="backends_order"):
        make_chain(SETTINGS)


async def test_settings_reach_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ASYNC_SCHEDULER__SECRETS_TTL", "30")
    monkeypatch.setenv("AIRFLOW__ASYNC_SCHEDULER__SECRETS_BREAKER_PAUSE", "3")
    settings = make_chain(Settings.from_airflow()).settings
    assert (settings.ttl, settings.breaker_pause, settings.cache_size) == (30.0, 3.0, 10_000)


def test_airflows_backends_are_replaced_and_others_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Subclass(EnvironmentVariablesBackend):  # type: ignore[misc]
        pass

    threads = DaemonThreads(1, "unused")
    assert type(make_async(EnvironmentVariablesBackend(), threads)) is AsyncEnvironmentVariablesBackend
    assert type(make_async(MetastoreBackend(), threads)) is AsyncMetastoreBackend
    local = make_async(LocalFilesystemBackend("v.json", "c.json", "k.json"), threads)
    assert type(local) is AsyncLocalFilesystemBackend
    assert (local.variables_file, local.connections_file, local.configs_file) == (
        "v.json",
        "c.json",
        "k.json",
    )
    assert type(make_async(Subclass(), threads)) is AsyncBackendAdapter
    assert type(make_async(VaultBackend(token="t"), threads)) is AsyncBackendAdapter
    ours = AsyncVaultBackend(token="t")
    assert make_async(ours, threads) is ours


@pytest.mark.parametrize(
    ("path", "kwargs"),
    [
        ("async_scheduler.secrets.vault.AsyncVaultBackend", {"token": "t"}),
        ("async_scheduler.secrets.local_file.AsyncLocalFilesystemBackend", {}),
    ],
)
def test_ours_serve_as_airflows_own_backend(monkeypatch: pytest.MonkeyPatch, path: str, kwargs: Any) -> None:
    """``[secrets] backend`` in servers, which set Airflow's class, and ``[workers] secrets_backend``."""
    _use(monkeypatch, path, **kwargs)
    for search_path in (
        configuration.DEFAULT_SECRETS_SEARCH_PATH,
        ["airflow.secrets.metastore.MetastoreBackend"],
    ):
        backend = configuration.ensure_secrets_loaded(search_path)[0]
        assert f"{type(backend).__module__}.{type(backend).__name__}" == path
        assert backend._get_connection_class() is Connection
    backend._set_connection_class(TaskConnection)
    assert type(backend.deserialize_connection("c", "http://host")) is TaskConnection


def test_the_provider_names_the_backends() -> None:
    assert get_provider_info()["secrets-backends"] == list(SECRETS_BACKENDS)


@pytest.mark.parametrize("path", SECRETS_BACKENDS)
def test_backends_can_be_imported_while_airflow_reads_its_configuration(path: str) -> None:
    """Airflow makes the custom backend at the end of importing ``airflow.configuration``."""
    code = "from airflow.configuration import secrets_backend_list as b; print(type(b[0]).__name__)"
    environment = {
        "AIRFLOW__SECRETS__BACKEND": path,
        "AIRFLOW__SECRETS__BACKEND_KWARGS": '{"token": "t"}' if "vault" in path else "{}",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**__import__("os").environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == path.rpartition(".")[2]
