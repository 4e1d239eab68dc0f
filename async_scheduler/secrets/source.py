"""One backend in the chain: asked with a time limit, left alone while it keeps failing."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from async_scheduler.secrets.adapter import AsyncBackendAdapter
from async_scheduler.secrets.errors import BackendTimeout, BackendUnavailable, SecretsError, describe

if TYPE_CHECKING:
    from async_scheduler.secrets.backend import AsyncSecretsBackend
    from async_scheduler.secrets.breaker import CircuitBreaker

log = logging.getLogger(__name__)

Kind = Literal["connection", "variable", "config"]


class Lookup(NamedTuple):
    """What is looked up: a connection id, a variable's key or the key of a configuration value."""

    kind: Kind
    key: str
    team_name: str | None = None


@dataclass(slots=True)
class SourceCounts:
    """How often a backend was asked since the chain was made, and what became of it."""

    asked: int = 0
    found: int = 0
    failed: int = 0
    timed_out: int = 0
    passed_over: int = 0


class SourceFailed(SecretsError):
    """A backend gave no answer; the chain asks the next one. The message is safe to log."""


class Source:
    """A backend with its time limit, breaker and counts."""

    def __init__(self, backend: AsyncSecretsBackend, timeout: float, breaker: CircuitBreaker) -> None:
        self.backend = backend
        self.counts = SourceCounts()
        self._timeout = timeout
        self._breaker = breaker

    @property
    def name(self) -> str:
        """The class name of the backend."""
        asked = self.backend.backend if isinstance(self.backend, AsyncBackendAdapter) else self.backend
        return type(asked).__name__

    async def ask(self, lookup: Lookup) -> Any | None:
        """Return the backend's answer, None if it has no such key.

        :raises SourceFailed: when it raised, took too long, or is not asked at the moment.
        :raises AirflowSecretsBackendAccessDenied: when it forbids the look-up; nobody else may be asked.
        """
        if not self._breaker.admits():
            self.counts.passed_over += 1
            raise SourceFailed(str(BackendUnavailable(self.name)))
        self.counts.asked += 1
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                answer = await self._get(lookup)
        except AirflowSecretsBackendAccessDenied:
            self._succeeded()
            raise
        except Exception as error:  # a third party's code may raise anything, and must stop nobody
            raise self._failed(lookup, self._timed_out() if limit.expired() else error) from None
        except BaseException:
            self._breaker.abandoned()
            raise
        self._succeeded()
        self.counts.found += answer is not None
        return answer

    async def _get(self, lookup: Lookup) -> Any | None:
        if lookup.kind == "connection":
            return await self.backend.aget_connection(lookup.key, lookup.team_name)
        if lookup.kind == "variable":
            return await self.backend.aget_variable(lookup.key, lookup.team_name)
        return await self.backend.aget_config(lookup.key)

    def _succeeded(self) -> None:
        if self._breaker.streak:
            log.info("Secrets backend %s answers again", self.name)
        self._breaker.succeeded()

    def _timed_out(self) -> BackendTimeout:
        self.counts.timed_out += 1
        return BackendTimeout(self.name, self._timeout)

    def _failed(self, lookup: Lookup, error: Exception) -> SourceFailed:
        """Count *error*, log it if it is the first in a row, and return what to raise."""
        self.counts.failed += 1
        reason = describe(error)
        if not self._breaker.streak:
            log.warning(
                "Secrets backend %s failed to look up %s %r: %s. The next backend is asked; "
                "further failures are not logged until it answers again.",
                self.name,
                lookup.kind,
                lookup.key,
                reason,
            )
        self._breaker.failed()
        return SourceFailed(reason)
