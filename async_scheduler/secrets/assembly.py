"""Makes a chain from Airflow's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.secrets.environment_variables import EnvironmentVariablesBackend
from airflow.secrets.local_filesystem import LocalFilesystemBackend
from airflow.secrets.metastore import MetastoreBackend

from async_scheduler.errors import InvalidSetting
from async_scheduler.secrets.adapter import AsyncBackendAdapter
from async_scheduler.secrets.backend import AsyncSecretsBackend
from async_scheduler.secrets.chain import AsyncSecretsChain, ChainSettings
from async_scheduler.secrets.environment import AsyncEnvironmentVariablesBackend
from async_scheduler.secrets.local_file import AsyncLocalFilesystemBackend
from async_scheduler.secrets.metastore import AsyncMetastoreBackend
from async_scheduler.secrets.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from async_scheduler.secrets.metastore import SessionFactory
    from async_scheduler.settings import Settings

CUSTOM, ENVIRONMENT, METASTORE = "custom", "environment_variable", "metastore"
DEFAULT_ORDER = (CUSTOM, ENVIRONMENT, METASTORE)


def make_chain(settings: Settings, sessions: SessionFactory | None = None) -> AsyncSecretsChain:
    """Return the chain of a server process (scheduler, API server, command line).

    The search order is Airflow's: ``[secrets] backend``, environment, metastore; or that of ``[secrets]
    backends_order`` in versions of Airflow that have it. Metastore look-ups open their sessions with
    *sessions*, by default on Airflow's async engine; they use one connection at a time.

    :raises InvalidSetting: for a ``backends_order`` that names unknown backends or one twice.
    """
    from airflow.configuration import get_custom_secret_backend
    from airflow.models import Connection

    threads = DaemonThreads(settings.secrets_threads, "secrets")
    backends: dict[str, AsyncSecretsBackend] = {
        ENVIRONMENT: AsyncEnvironmentVariablesBackend(),
        METASTORE: AsyncMetastoreBackend(sessions),
    }
    custom = get_custom_secret_backend()
    if custom is not None:
        backends[CUSTOM] = make_async(custom, threads, sessions)
        custom._set_connection_class(Connection)
    for backend in backends.values():
        backend._set_connection_class(Connection)
    return AsyncSecretsChain(
        [backends[name] for name in search_order() if name in backends],
        chain_settings(settings),
        config_backend=backends.get(CUSTOM),
    )


def make_async(
    backend: Any, threads: DaemonThreads, sessions: SessionFactory | None = None
) -> AsyncSecretsBackend:
    """Return an async backend that answers as *backend* does.

    One of ours is taken as it is and Airflow's own are replaced by ours; any other keeps its own ``aget_…``
    methods and has the rest run in *threads*.
    """
    if isinstance(backend, AsyncSecretsBackend):
        return backend
    if type(backend) is EnvironmentVariablesBackend:
        return AsyncEnvironmentVariablesBackend()
    if type(backend) is MetastoreBackend:
        return AsyncMetastoreBackend(sessions)
    if type(backend) is LocalFilesystemBackend:
        return AsyncLocalFilesystemBackend(
            backend.variables_file, backend.connections_file, backend.configs_file
        )
    return AsyncBackendAdapter(backend, threads)


def chain_settings(settings: Settings) -> ChainSettings:
    """Return what ``[async_scheduler] secrets_*`` says."""
    return ChainSettings(
        ttl=settings.secrets_ttl,
        cache_size=settings.secrets_cache_size,
        timeout=settings.secrets_timeout,
        breaker_failures=settings.secrets_breaker_failures,
        breaker_pause=settings.secrets_breaker_pause,
    )


def search_order() -> Sequence[str]:
    """Return the names of the backends in search order (``[secrets] backends_order``, not in Airflow 3.3)."""
    from airflow.configuration import conf

    if not conf.has_option("secrets", "backends_order"):
        return DEFAULT_ORDER
    text = conf.get("secrets", "backends_order")
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names) or not {ENVIRONMENT, METASTORE} <= set(names) <= set(DEFAULT_ORDER):
        raise InvalidSetting(
            "secrets",
            "backends_order",
            text,
            f"{', '.join(DEFAULT_ORDER)} in any order, each once; {CUSTOM} may be left out",
        )
    return names
