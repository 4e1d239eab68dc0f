"""Async secrets: connections, variables and configuration values without blocking anything.

Task authors need :func:`aget_connection` and :func:`aget_variable`. Those who write a backend inherit from
:class:`AsyncSecretsBackend` or :class:`AsyncValueBackend` and run it through
:mod:`async_scheduler.secrets.conformance`.

Backends named in ``airflow.cfg`` are imported while ``airflow.configuration`` itself is, so this module
imports nothing that needs it complete.
"""

from async_scheduler.secrets.backend import AsyncSecretsBackend, AsyncValueBackend
from async_scheduler.secrets.tasks import aget_connection, aget_variable

__all__ = ["AsyncSecretsBackend", "AsyncValueBackend", "aget_connection", "aget_variable"]
