"""Airflow's search through its secrets backends, for coroutines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from airflow.exceptions import AirflowConfigException
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from async_scheduler.secrets.breaker import CircuitBreaker
from async_scheduler.secrets.cache import MISS, LookupCache, fresh
from async_scheduler.secrets.masking import Mask, mask_in_server
from async_scheduler.secrets.single_flight import SingleFlight
from async_scheduler.secrets.source import Kind, Lookup, Source, SourceCounts, SourceFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from async_scheduler.secrets.backend import AsyncSecretsBackend

Outcome = Literal["found", "absent", "failed", "denied", "not asked"]


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """How a chain asks its backends. Times are in seconds.

    ``ttl=0`` caches nothing; ``breaker_failures=0`` never leaves a failing backend alone.
    """

    ttl: float = 0.0
    cache_size: int = 10_000
    timeout: float = 10.0
    breaker_failures: int = 5
    breaker_pause: float = 30.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of asking one backend; holds no value."""

    backend: str
    outcome: Outcome
    seconds: float
    reason: str = ""


class AsyncSecretsChain:
    """Asks backends in order; the first that has the key wins. Belongs to one event loop.

    - A backend that fails or takes too long is passed over, as Airflow passes over one that raises. What
      is found, or not found, behind it is not cached: the missing backend might have had the key.
    - Tasks that ask for the same key at the same time share one look-up; different keys do not wait for
      each other.
    - Values go to Airflow's masker before anyone gets them. Connections are copies of the caller's own.
    """

    def __init__(
        self,
        backends: Sequence[AsyncSecretsBackend],
        settings: ChainSettings | None = None,
        *,
        config_backend: AsyncSecretsBackend | None = None,
        mask: Mask = mask_in_server,
    ) -> None:
        """Search *backends* in this order, and *config_backend*, usually one of them, for ``*_secret``."""
        self.settings = settings = settings or ChainSettings()
        self._sources = [self._source(backend) for backend in backends]
        self._config_source = next(
            (source for source in self._sources if source.backend is config_backend),
            None if config_backend is None else self._source(config_backend),
        )
        self._mask = mask
        self._cache = LookupCache(settings.ttl, settings.cache_size)
        self._flights: SingleFlight[Lookup, Any] = SingleFlight()
        self._invalidations = 0

    def _source(self, backend: AsyncSecretsBackend) -> Source:
        breaker = CircuitBreaker(self.settings.breaker_failures, self.settings.breaker_pause)
        return Source(backend, self.settings.timeout, breaker)

    @property
    def backends(self) -> tuple[AsyncSecretsBackend, ...]:
        """The backends in search order."""
        return tuple(source.backend for source in self._sources)

    @property
    def counts(self) -> dict[str, SourceCounts]:
        """For each backend, by class name, how often it was asked and what became of it."""
        return {source.name: source.counts for source in self._sources}

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Return the connection, or None if no backend has it.

        Mirrors the search of ``Connection.get_connection_from_secrets``.

        :raises ValueError: if *team_name* is given but multi-team mode is off.
        :raises AirflowSecretsBackendAccessDenied: if a backend forbids the look-up.
        """
        return await self.find(Lookup("connection", conn_id, team_name))

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the variable's text, or None if no backend has it.

        Mirrors ``Variable.get_variable_from_secrets``; raises as :meth:`aget_connection`.
        """
        value: str | None = await self.find(Lookup("variable", key, team_name))
        return value

    async def aget_config(self, key: str) -> str | None:
        """Return the value that a ``*_secret`` option names, from the custom backend alone, or None.

        Mirrors ``conf._get_config_value_from_secret_backend``.

        :raises AirflowConfigException: if the backend fails.
        """
        value: str | None = await self.find(Lookup("config", key))
        return value

    async def find(self, lookup: Lookup) -> Any | None:
        """Return what the first backend that has it gives for *lookup*, or None."""
        if lookup.team_name:
            _require_multi_team(lookup.kind)
        known = self._cache.get(lookup)
        if known is not MISS:
            return known
        return fresh(await self._flights.share(lookup, partial(self._search, lookup)))

    async def _search(self, lookup: Lookup) -> Any | None:
        if lookup.kind == "config":
            return await self._search_config(lookup)
        invalidations, certain = self._invalidations, True
        value = None
        for source in self._sources:
            try:
                value = await source.ask(lookup)
            except SourceFailed:
                certain = False
            if value is not None:
                await self._mask(lookup.kind, lookup.key, value)
                break
        if certain and invalidations == self._invalidations:
            self._cache.put(lookup, value)
        return value

    async def _search_config(self, lookup: Lookup) -> Any | None:
        if self._config_source is None:
            return None
        invalidations = self._invalidations
        try:
            value = await self._config_source.ask(lookup)
        except SourceFailed as failure:
            raise AirflowConfigException(
                "Cannot retrieve config from alternative secrets backend. Make sure it is configured "
                f"properly and that the Backend is accessible.\n{failure}"
            ) from None
        if value is not None:
            await self._mask(lookup.kind, lookup.key, value)
        if invalidations == self._invalidations:
            self._cache.put(lookup, value)
        return value

    async def trace(self, lookup: Lookup) -> list[Attempt]:
        """Ask the backends in order as :meth:`find` does, past the cache, and return what came of each.

        :raises ValueError: if a team is given but multi-team mode is off.
        """
        if lookup.team_name:
            _require_multi_team(lookup.kind)
        sources = self._sources if lookup.kind != "config" else filter(None, [self._config_source])
        attempts: list[Attempt] = []
        for source in sources:
            if attempts and attempts[-1].outcome not in ("absent", "failed"):
                attempts.append(Attempt(source.name, "not asked", 0.0))
            else:
                attempts.append(await _attempt(source, lookup))
        return attempts

    def invalidate(
        self, kind: Kind | None = None, key: str | None = None, team_name: str | None = None
    ) -> None:
        """Forget one key (its *kind* and *key* given), or everything. A look-up under way is not cached."""
        self._invalidations += 1
        if kind is None or key is None:
            self._cache.clear()
        else:
            self._cache.forget(Lookup(kind, key, team_name))

    async def aclose(self) -> None:
        """Forget everything and give back what the backends hold for this event loop."""
        self.invalidate()
        for source in {id(s): s for s in (*self._sources, self._config_source) if s is not None}.values():
            await source.backend.aclose()


async def _attempt(source: Source, lookup: Lookup) -> Attempt:
    started, reason = perf_counter(), ""
    try:
        outcome: Outcome = "absent" if await source.ask(lookup) is None else "found"
    except SourceFailed as failure:
        outcome, reason = "failed", str(failure)
    except AirflowSecretsBackendAccessDenied:
        outcome = "denied"
    return Attempt(source.name, outcome, perf_counter() - started, reason)


def _require_multi_team(kind: Kind) -> None:
    """Mirrors the check in ``Connection.get_connection_from_secrets`` and ``Variable.get``."""
    from airflow.configuration import conf

    if not conf.getboolean("core", "multi_team"):
        raise ValueError(
            "Multi-team mode is not configured in the Airflow environment but the task trying to access "
            f"the {kind} belongs to a team"
        )
