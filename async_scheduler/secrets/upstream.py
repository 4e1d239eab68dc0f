"""Leads the look-ups of Airflow's sync code in this process to the chain.

Inside the scheduler that is: ``Variable.get`` and ``Connection.get_connection_from_secrets`` (deadlines with
a ``VariableInterval``, timetables, listeners), the hooks of executors (through the task SDK), and
configuration options given by ``*_secret``. Where an answer comes from depends on who asks:

- what :func:`~async_scheduler.secrets.preload.preloaded` has looked up: from memory;
- code in another thread, such as an executor's hook: from the chain, on the event loop, while the thread
  waits;
- Airflow's code run by ``AsyncSession.run_sync`` on the loop's own thread: from the chain; the routine waits
  and the event loop goes on, but the routine's transaction stays open, which is what preloading is for;
- other code on the loop's thread: from Airflow's sync backends, blocking, as without us.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from airflow.exceptions import AirflowNotFoundException
from airflow.secrets.metastore import MetastoreBackend
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from async_scheduler.secrets.cache import MISS
from async_scheduler.secrets.masking import compile_masks_when_needed
from async_scheduler.secrets.preload import look_up_all, recall
from async_scheduler.secrets.source import Lookup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from async_scheduler.secrets.chain import AsyncSecretsChain


@dataclass(slots=True)
class LookupCounts:
    """Where the look-ups of sync code were answered since the routing began."""

    from_memory: int = 0
    from_thread: int = 0
    inside_routine: int = 0
    blocking: int = 0


@asynccontextmanager
async def lookups_routed(chain: AsyncSecretsChain) -> AsyncIterator[RoutedBackend]:
    """Route this process's look-ups through *chain* while the block runs; one block at a time.

    The values of ``*_secret`` options are looked up first and read from memory from then on. A forked child
    is back at Airflow's own backends. New secrets no longer recompile the masker's expression one by one.

    :raises AirflowConfigException: if a ``*_secret`` option cannot be looked up.
    """
    routed = RoutedBackend(chain)
    await routed.read_config()
    compile_masks_when_needed()
    routed.begin()
    _routed.add(routed)
    try:
        yield routed
    finally:
        _routed.discard(routed)
        routed.end()


class RoutedBackend(MetastoreBackend):  # type: ignore[misc]
    """Stands in Airflow's lists of backends for all of them, and asks the chain.

    It counts as a metastore backend, so that ``Variable.set`` does not take a variable found by it for one
    that another backend defines as well.
    """

    def __init__(self, chain: AsyncSecretsChain) -> None:
        super().__init__()
        self.counts = LookupCounts()
        self._chain = chain
        self._patience = chain.settings.timeout * (len(chain.backends) + 1)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._config: dict[str, str | None] = {}
        self._lists = _BackendLists(self)

    def begin(self) -> None:
        """Take the place of Airflow's backends in this process."""
        self._lists.replace()

    def end(self) -> None:
        """Put Airflow's backends back."""
        self._lists.restore()

    def get_connection(self, conn_id: str, team_name: str | None = None, **_: Any) -> Any | None:
        """Return the connection or None."""
        return self._answer(Lookup("connection", conn_id, team_name))

    def get_variable(self, key: str, team_name: str | None = None, **_: Any) -> str | None:
        """Return the variable or None."""
        value: str | None = self._answer(Lookup("variable", key, team_name))
        return value

    def get_config(self, key: str) -> str | None:
        """Return the value that a ``*_secret`` option names, as of the last :meth:`read_config`, or None."""
        if key in self._config:
            self.counts.from_memory += 1
            return self._config[key]
        value: str | None = self._answer(Lookup("config", key))
        return value

    async def read_config(self) -> None:
        """Look up the values of all ``*_secret`` options; from now on they are read from memory.

        :raises AirflowConfigException: if the backend fails; values read before stay in use.
        """
        wanted = [Lookup("config", key) for key in secret_option_keys()]
        try:
            found = await look_up_all(self._chain, wanted)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        self._config = {lookup.key: value for lookup, value in found.items()}

    def _answer(self, lookup: Lookup) -> Any | None:
        known = recall(lookup)
        if known is not MISS:
            self.counts.from_memory += 1
            return known
        if threading.get_ident() != self._thread:
            self.counts.from_thread += 1
            # The limit only matters when the loop ends meanwhile; the chain has limits of its own.
            waiting = asyncio.run_coroutine_threadsafe(self._chain.find(lookup), self._loop)
            return waiting.result(self._patience)
        if in_greenlet():
            self.counts.inside_routine += 1
            return await_only(self._chain.find(lookup))
        self.counts.blocking += 1
        with self._lists.restored():
            return _ask_airflow(lookup)


def _ask_airflow(lookup: Lookup) -> Any | None:
    """Search as Airflow does, blocking."""
    from airflow.configuration import conf
    from airflow.models import Connection, Variable

    if lookup.kind == "variable":
        return Variable.get_variable_from_secrets(lookup.key, lookup.team_name)
    if lookup.kind == "config":
        return conf._get_config_value_from_secret_backend(lookup.key)
    try:
        return Connection.get_connection_from_secrets(lookup.key, lookup.team_name)
    except AirflowNotFoundException:
        return None


class _BackendLists:
    """The places where Airflow keeps its backends: core, task SDK, and both of their configurations."""

    def __init__(self, routed: RoutedBackend) -> None:
        self._routed = routed
        self._stock: list[Any] = []

    def replace(self) -> None:
        from airflow import configuration as core
        from airflow.sdk import configuration as sdk

        self._stock = list(core.secrets_backend_list)
        core.secrets_backend_list[:] = [self._routed]
        sdk._secrets_backend_cache[tuple(sdk._SERVER_DEFAULT_SECRETS_SEARCH_PATH)] = [self._routed]
        for conf in (core.conf, sdk.conf):
            # Shadows the method on this one object.
            conf._get_config_value_from_secret_backend = self._routed.get_config

    def restore(self) -> None:
        from airflow import configuration as core
        from airflow.sdk import configuration as sdk

        core.secrets_backend_list[:] = self._stock
        sdk._secrets_backend_cache.pop(tuple(sdk._SERVER_DEFAULT_SECRETS_SEARCH_PATH), None)
        for conf in (core.conf, sdk.conf):
            vars(conf).pop("_get_config_value_from_secret_backend", None)

    @contextmanager
    def restored(self) -> Iterator[None]:
        self.restore()
        try:
            yield
        finally:
            self.replace()


def secret_option_keys() -> frozenset[str]:
    """Return the keys that the ``*_secret`` options of the configuration name (file and environment)."""
    from airflow.configuration import conf

    keys = set()
    for section, option in conf.sensitive_config_values:
        variable = f"{conf._env_var_name(section, option)}_SECRET"
        if variable in os.environ:
            keys.add(os.environ[variable])
        elif conf.has_option(section, f"{option}_secret"):
            keys.add(conf.get(section, f"{option}_secret"))
    return frozenset(keys)


_routed: WeakSet[RoutedBackend] = WeakSet()


def _unroute_forked_child() -> None:
    for routed in list(_routed):
        routed.end()


os.register_at_fork(after_in_child=_unroute_forked_child)
