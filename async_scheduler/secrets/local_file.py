"""Connections, variables and configuration values from local files, parsed once per change of the file."""

from __future__ import annotations

import os
import threading
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from airflow.exceptions import AirflowFileParseException, ConnectionNotUnique
from airflow.secrets import local_filesystem as stock

from async_scheduler.secrets.backend import AsyncSecretsBackend
from async_scheduler.secrets.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

THREADS = 2
"""Enough to read one file while another is on a file system that hangs."""


class SecretsFileError(AirflowFileParseException):  # type: ignore[misc]
    """Airflow's error for a file that cannot be parsed, without the lines of the file in its text."""

    def __str__(self) -> str:
        lines = [f"{self.msg}", f"Filename: {self.file_path}"]
        for error in self.parse_errors:
            # The YAML parser quotes the file below its message, four columns in.
            lines += [line for line in error.message.splitlines() if not line.startswith("    ")]
            lines.append(f"Line number:  {error.line_no}")
        return "\n".join(lines)


class WatchedFile(Generic[T]):
    """What *parse* makes of a file, read again when its time, size or inode has changed. Thread-safe."""

    def __init__(self, path: str, parse: Callable[[str], Mapping[str, T]]) -> None:
        self._path = path
        self._parse = parse
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int, int], Mapping[str, T]] | None = None

    def entries(self) -> Mapping[str, T]:
        """Return the parsed file.

        :raises OSError: if it cannot be read.
        :raises AirflowException: what Airflow raises for a file with these mistakes.
        """
        with self._lock:
            status = os.stat(self._path)
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self._read is None or self._read[0] != version:
                self._read = None
                self._read = version, self._parsed()
            return self._read[1]

    def _parsed(self) -> Mapping[str, T]:
        try:
            return self._parse(self._path)
        except AirflowFileParseException as error:
            raise SecretsFileError(error.msg, error.file_path, error.parse_errors) from None


class AsyncLocalFilesystemBackend(stock.LocalFilesystemBackend, AsyncSecretsBackend):  # type: ignore[misc]
    """Airflow's local-file backend (same options, formats and errors), which parses at every look-up, twice.

    A connection that cannot be built, for example from a malformed URI, fails its own look-up only; in
    Airflow's backend it fails all. Files are read in threads of the backend's own.
    """

    def __init__(
        self,
        variables_file_path: str | None = None,
        connections_file_path: str | None = None,
        configs_file_path: str | None = None,
    ) -> None:
        super().__init__(variables_file_path, connections_file_path, configs_file_path)
        self._threads = DaemonThreads(THREADS, "secrets-file")
        self._variables = _watch(variables_file_path, stock.load_variables)
        self._connections = _watch(connections_file_path, _load_connection_values)
        self._configs = _watch(configs_file_path, stock.load_configs_dict)

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Return the connection, built anew for the caller, or None; reads the file if it has changed."""
        value = _entry(self._connections, conn_id)
        return None if value is None else stock._create_connection(conn_id, deepcopy(value))

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the variable or None; reads the file if it has changed."""
        value: str | None = _entry(self._variables, key)
        return value

    def get_config(self, key: str) -> str | None:
        """Return the configuration value or None; reads the file if it has changed."""
        value: str | None = _entry(self._configs, key)
        return value

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Do as :meth:`get_connection` without blocking."""
        return await self._threads.run(lambda: self.get_connection(conn_id, team_name))

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Do as :meth:`get_variable` without blocking."""
        return await self._threads.run(lambda: self.get_variable(key, team_name))

    async def aget_config(self, key: str) -> str | None:
        """Do as :meth:`get_config` without blocking."""
        return await self._threads.run(lambda: self.get_config(key))

    async def aclose(self) -> None:
        """Let the threads end."""
        self._threads.close()


def _watch(path: str | None, parse: Callable[[str], Mapping[str, Any]]) -> WatchedFile[Any] | None:
    return WatchedFile(path, parse) if path else None


def _entry(file: WatchedFile[Any] | None, key: str) -> Any:
    return None if file is None else file.entries().get(key)


def _load_connection_values(path: str) -> Mapping[str, Any]:
    """Return each connection's URI or object as it stands in the file.

    Mirrors ``load_connections_dict``, which builds every connection of the file.
    """
    values: dict[str, Any] = {}
    for key, value in stock._parse_secret_file(path).items():
        if isinstance(value, list) and len(value) > 1:
            raise ConnectionNotUnique(f"Found multiple values for {key} in {path}.")
        if value != []:
            values[key] = value[0] if isinstance(value, list) else value
    return values
