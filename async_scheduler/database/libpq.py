"""What asyncpg makes of libpq's connection parameters.

psycopg2 and psycopg 3 hand everything in a URL to libpq. asyncpg has a client of its own: it reads most of
libpq's parameters from a DSN, some under other names, some not at all. Here each parameter gets its place, or
the connection is refused: one that is dropped silently could be the one that asks for encryption.

Source: PostgreSQL documentation, 32.1.2 Parameter Key Words; asyncpg's ``connect()``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from async_scheduler.errors import UnsupportedConnection

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
ROLES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

OTHER_DRIVER = "leave it out, or use the driver postgresql+psycopg in sql_alchemy_conn_async"

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_IN_DSN = (
    "sslmode",
    *_FILES,
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
    "passfile",
    "service",
    "krbsrvname",
    "gsslib",
)
"""What asyncpg reads from a DSN under libpq's names."""
_OWN_NUMBERS = {
    "timeout": float,
    "command_timeout": float,
    "statement_cache_size": int,
    "prepared_statement_cache_size": int,
    "max_cached_statement_lifetime": int,
    "max_cacheable_statement_size": int,
}
"""asyncpg's and its dialect's own arguments, which in a URL are text."""
_MEANINGLESS = {
    "sslcompression": ("0", "1"),
    "sslsni": ("1",),
    "sslcertmode": ("allow",),
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "channel_binding": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "replication": ("false", "off", "no", "0"),
    "client_encoding": ("utf8", "utf-8", "unicode", "auto"),
    "min_protocol_version": ("3.0",),
    "max_protocol_version": ("3.0", "3.2", "latest"),
}
"""Parameters whose values named here ask for nothing that asyncpg does not do anyway."""
_INSTEAD = {
    "hostaddr": "put the address into host",
    "load_balance_hosts": "leave it out: hosts are tried in the order given",
    "sslcrldir": "name one file in sslcrl",
    "client_encoding": "leave it out: asyncpg speaks UTF-8",
}
_KEEPALIVE = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


@dataclass(slots=True)
class AsyncpgArguments:
    """How asyncpg is to connect.

    ``dsn`` and ``connect`` are arguments of ``asyncpg.connect``; ``socket_options`` (level, name, value) are
    set on TCP sockets.
    """

    dsn: str = ""
    connect: dict[str, Any] = field(default_factory=dict)
    socket_options: list[tuple[int, int, int]] = field(default_factory=list)


def for_asyncpg(
    given: Mapping[str, str], hosts: int = 1, environment: Mapping[str, str] = os.environ
) -> AsyncpgArguments:
    """Translate the parameters *given* beside user, password, host, port and database.

    :param hosts: among how many hosts ``connect_timeout``, which libpq counts for each, is shared.
    :raises UnsupportedConnection: for a parameter or value that asyncpg cannot honour.
    """
    left = dict(given)
    arguments = AsyncpgArguments()
    _set_timeout(left, hosts, arguments, environment)
    for name in _OWN_NUMBERS.keys() & left.keys():
        arguments.connect[name] = _number(name, left.pop(name), _OWN_NUMBERS[name])
    arguments.socket_options = _socket_options(left)
    dsn = _dsn(left) | _server_settings(left, environment)
    for name, value in left.items():
        if value.lower() not in _MEANINGLESS.get(name, ()):
            # The value of an unknown name is not shown: it might be a secret.
            what = f"{name}={value}" if name in _MEANINGLESS else name
            raise UnsupportedConnection(what, _INSTEAD.get(name, OTHER_DRIVER), "asyncpg")
    if dsn:
        arguments.dsn = f"postgresql://?{urlencode(dsn)}"
    return arguments


def _set_timeout(
    left: dict[str, str], hosts: int, arguments: AsyncpgArguments, environment: Mapping[str, str]
) -> None:
    text = left.pop("connect_timeout", environment.get("PGCONNECT_TIMEOUT"))
    if text is not None:
        seconds = _number("connect_timeout", text, int)
        # libpq: nothing, zero or less is no limit, and one second counts as two.
        arguments.connect["timeout"] = max(seconds, 2) * hosts if seconds > 0 else None


def _number(name: str, text: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UnsupportedConnection(f"{name}={text}", "give it a number", "asyncpg") from None


def _dsn(left: dict[str, str]) -> dict[str, str]:
    """Take out of *left* what asyncpg reads from a DSN, checked as far as that needs no connection."""
    if (ssl := left.pop("ssl", None)) is not None:  # asyncpg's name for sslmode
        left.setdefault("sslmode", ssl)
    taken = {name: left.pop(name) for name in _IN_DSN if name in left}
    _require("sslmode", taken, SSL_MODES)
    _require("target_session_attrs", taken, ROLES)
    if taken.get("sslrootcert") == "system":
        instead = "name the file with the system's certificates, such as /etc/ssl/certs/ca-certificates.crt"
        raise UnsupportedConnection("sslrootcert=system", instead, "asyncpg")
    for name in _FILES:
        path = taken.get(name)
        if path and not os.access(path, os.R_OK):
            raise UnsupportedConnection(f"{name}={path}", "name a file that can be read")
    return taken


def _require(name: str, given: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    if name in given and given[name] not in allowed:
        raise UnsupportedConnection(f"{name}={given[name]}", f"use one of {', '.join(allowed)}")


def _server_settings(left: dict[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Take out of *left* what the server is told at start-up; asyncpg passes on unknown names in a DSN."""
    settings = {}
    options = left.pop("options", environment.get("PGOPTIONS"))
    if options:
        settings["options"] = options
    fallback = left.pop("fallback_application_name", None)
    name = left.pop("application_name", environment.get("PGAPPNAME")) or fallback
    if name:
        settings["application_name"] = name
    return settings


def _socket_options(left: dict[str, str]) -> list[tuple[int, int, int]]:
    """Take out of *left* what concerns the TCP socket; libpq keeps connections alive unless told not to."""
    values = {name: _number(name, left.pop(name), int) for name in _KEEPALIVE.keys() & left.keys()}
    if _number("keepalives", left.pop("keepalives", "1"), int) == 0:
        values = {name: value for name, value in values.items() if name == "tcp_user_timeout"}
        options = []
    else:
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in sorted(values.items()):
        # Zero is the system's default; so is an option that the system does not have.
        option = getattr(socket, _KEEPALIVE[name], None)
        if value > 0 and option is not None:
            options.append((socket.IPPROTO_TCP, option, value))
    return options
