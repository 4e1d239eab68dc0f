"""What asyncpg makes of libpq's parameters: each has its place, or the connection is refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow import settings as airflow_settings
from sqlalchemy.engine import make_url

from async_scheduler.database.address import AsyncAddress, async_address, translated
from async_scheduler.database.libpq import for_asyncpg
from async_scheduler.errors import UnsupportedConnection
from async_scheduler.measure.sampler import asyncpg_arguments

if TYPE_CHECKING:
    from pathlib import Path

HERE = "postgresql+asyncpg://user:secret@db.example.org/airflow"


def dsn(address: AsyncAddress) -> dict[str, str]:
    """Return what asyncpg will read from the DSN."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address.connect_args["dsn"]).query).items()}


def arguments(text: str) -> dict[str, object]:
    """Return what SQLAlchemy's dialect makes of a URL."""
    address = translated(text)
    return dict(address.url.get_dialect()().create_connect_args(address.url)[1])


def test_tls_and_roles_go_where_asyncpg_looks_for_them(tmp_path: Path) -> None:
    files = {}
    for name in ("sslrootcert", "sslcert", "sslkey"):
        (tmp_path / name).touch()
        files[name] = str(tmp_path / name)
    query = "&".join(f"{name}={path}" for name, path in files.items())
    address = translated(f"{HERE}?sslmode=verify-full&{query}&target_session_attrs=read-write")
    assert dsn(address) == {"sslmode": "verify-full", **files, "target_session_attrs": "read-write"}
    assert not address.url.query, "nothing is left that would reach asyncpg as an argument it does not know"


def test_the_url_that_is_logged_shows_no_secret() -> None:
    address = translated(f"{HERE}?sslmode=require&sslpassword=hush")
    assert "hush" not in repr(address.url)
    assert "secret" not in repr(address.url)
    assert dsn(address)["sslpassword"] == "hush"


def test_what_the_server_is_told_at_startup() -> None:
    address = translated(f"{HERE}?options=-c%20statement_timeout%3D5000&application_name=mine")
    assert dsn(address) == {"options": "-c statement_timeout=5000", "application_name": "mine"}
    assert address.names_application
    assert not translated(HERE).names_application


@pytest.mark.parametrize(
    ("text", "timeout"),
    [("7", 7), ("1", 2), ("0", None), ("-1", None)],
    ids=["as given", "one", "zero", "less"],
)
def test_connect_timeout_counts_as_for_libpq(text: str, timeout: int | None) -> None:
    assert translated(f"{HERE}?connect_timeout={text}").connect_args["timeout"] == timeout


def test_connect_timeout_is_for_each_host() -> None:
    address = translated("postgresql+asyncpg://user@/db?host=a,b,c&connect_timeout=4")
    assert address.connect_args["timeout"] == 12


def test_the_environment_counts_as_for_libpq() -> None:
    found = for_asyncpg({}, environment={"PGCONNECT_TIMEOUT": "9", "PGOPTIONS": "-c jit=off"})
    assert found.connect == {"timeout": 9}
    assert parse_qs(urlsplit(found.dsn).query) == {"options": ["-c jit=off"]}


def test_keepalives() -> None:
    on = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert translated(HERE).socket_options == (on,)
    assert translated(f"{HERE}?keepalives=0&keepalives_idle=30").socket_options == ()
    given = "keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000"
    assert set(translated(f"{HERE}?{given}").socket_options) == {
        on,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 9000),
    }


@pytest.mark.parametrize(
    ("query", "host", "port"),
    [
        ("host=/run/postgresql", "/run/postgresql", None),
        ("host=/run/postgresql&port=5433", "/run/postgresql", 5433),
        ("host=one:1&host=two:2", ["one", "two"], [1, 2]),
        ("host=one:1&host=two", ["one", "two"], [1, 5432]),
        ("host=one,two&port=7", ["one", "two"], [7, 7]),
        ("host=one,two&port=1,2", ["one", "two"], [1, 2]),
        ("host=one,/tmp", ["one", "/tmp"], [5432, 5432]),
    ],
)
def test_hosts(query: str, host: object, port: object) -> None:
    found = arguments(f"postgresql+asyncpg://user@/db?{query}")
    assert (found["host"], found.get("port")) == (host, port)


def test_psycopg_gets_all_as_it_is() -> None:
    found = arguments("postgresql+psycopg://u@/db?host=a:1&host=b&sslmode=require&keepalives=0&hostaddr=::1")
    assert found == {
        "user": "u",
        "dbname": "db",
        "host": "a,b",
        "port": "1,5432",
        "sslmode": "require",
        "keepalives": "0",
        "hostaddr": "::1",
    }
    assert translated("postgresql+psycopg://u@/db?prepare_threshold=none").connect_args == {
        "prepare_threshold": None
    }


def test_asyncpgs_own_arguments_become_numbers() -> None:
    address = translated(f"{HERE}?prepared_statement_cache_size=0&statement_cache_size=0&command_timeout=1.5")
    assert address.connect_args == {
        "prepared_statement_cache_size": 0,
        "statement_cache_size": 0,
        "command_timeout": 1.5,
    }


def test_ssl_is_asyncpgs_name_for_sslmode() -> None:
    assert dsn(translated(f"{HERE}?ssl=require")) == {"sslmode": "require"}
    address = translated(HERE, {"sslmode": "require", "connect_timeout": 3, "ssl": True})
    assert dsn(address) == {"sslmode": "require"}
    assert (address.connect_args["timeout"], address.connect_args["ssl"]) == (3, True)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sslmode=yes", "sslmode=yes is not supported; use one of disable, allow, prefer"),
        ("sslrootcert=/no/such/file", "sslrootcert=/no/such/file is not supported; name a file that can be"),
        (
            "sslrootcert=system",
            "sslrootcert=system is not supported by asyncpg; name the file",
        ),
        ("target_session_attrs=master", "target_session_attrs=master is not supported; use one of any"),
        ("hostaddr=10.0.0.1", "hostaddr is not supported by asyncpg; put the address into host"),
        ("gssencmode=require", "gssencmode=require is not supported by asyncpg; leave it out, or use"),
        ("channel_binding=require", "channel_binding=require is not supported by asyncpg; leave it out, or"),
        (
            "require_auth=scram-sha-256",
            "require_auth is not supported by asyncpg; leave it out, or use",
        ),
        (
            "load_balance_hosts=random",
            "load_balance_hosts=random is not supported by asyncpg; leave it",
        ),
        ("connect_timeout=soon", "connect_timeout=soon is not supported by asyncpg; give it a number"),
        ("host=a,b&port=1,2,3", "A list of 2 hosts with 3 ports is not supported; give each host a port"),
        ("host=a&port=b", "A port that is no number is not supported; give each host a number"),
        ("host=a,,b", "A host without a name among several is not supported; name every host"),
    ],
)
def test_what_cannot_be_honoured_is_refused(query: str, message: str) -> None:
    with pytest.raises(UnsupportedConnection) as refused:
        translated(f"{HERE}?{query}")
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_value_of_an_unknown_parameter_is_not_shown() -> None:
    with pytest.raises(UnsupportedConnection) as refused:
        translated(f"{HERE}?passwort=hush")
    assert "passwort" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("text", ["nonsense", "postgresql+asyncpg://h:1,g:2/db"])
def test_a_url_that_is_none_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UnsupportedConnection, match="The URL in"):
        translated(text)


SYNC_ARGUMENTS = {"sslmode": "require", "connect_timeout": 3, "cursor_factory": object}
STRANGE_ARGUMENTS = {"sslmode": "require", "password_callback": len}
ASYNC_ARGUMENTS = {"command_timeout": 5.0}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Configure Airflow with connect arguments found in this module, by option."""
    monkeypatch.setattr(airflow_settings, "SQL_ALCHEMY_CONN", HERE.replace("asyncpg", "psycopg2"))
    monkeypatch.setattr(airflow_settings, "SQL_ALCHEMY_CONN_ASYNC", HERE)

    def configure(**names: str) -> None:
        for option, name in names.items():
            monkeypatch.setenv(f"AIRFLOW__DATABASE__{option.upper()}", f"{__name__}.{name}")

    return configure


def test_the_sync_engines_arguments_count_where_its_url_does(configured: Callable[..., None]) -> None:
    configured(sql_alchemy_connect_args="SYNC_ARGUMENTS")
    address = async_address()
    assert dsn(address) == {"sslmode": "require"}
    assert address.connect_args["timeout"] == 3


def test_what_only_the_sync_driver_understands_is_refused(configured: Callable[..., None]) -> None:
    configured(sql_alchemy_connect_args="STRANGE_ARGUMENTS")
    with pytest.raises(UnsupportedConnection, match=r"password_callback in .* set .*connect_args_async"):
        async_address()


def test_arguments_for_the_async_driver_stand_alone(configured: Callable[..., None]) -> None:
    configured(sql_alchemy_connect_args="SYNC_ARGUMENTS", sql_alchemy_connect_args_async="ASYNC_ARGUMENTS")
    assert async_address().connect_args == ASYNC_ARGUMENTS


def test_a_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_settings, "SQL_ALCHEMY_CONN_ASYNC", "postgresql+nosuch://u:secret@h/d")
    with pytest.raises(UnsupportedConnection, match=r"driver postgresql.nosuch .* install it") as refused:
        async_address()
    assert "secret" not in str(refused.value)


def test_mysql_tls_in_a_url_is_refused() -> None:
    with pytest.raises(UnsupportedConnection, match="sql_alchemy_connect_args_async"):
        translated("mysql+aiomysql://u:secret@h/db?ssl_ca=/ca.pem")


def test_those_who_watch_get_a_url_for_asyncpg() -> None:
    watching = translated(f"{HERE}?sslmode=require").monitor_url(pgbouncer=True)
    assert make_url(watching.render_as_string(hide_password=False)) == watching
    assert asyncpg_arguments(watching) == {
        "user": "user",
        "password": "secret",
        "host": "db.example.org",
        "database": "airflow",
        "dsn": "postgresql://?sslmode=require",
        "statement_cache_size": 0,
    }
    psycopg = translated("postgresql+psycopg://u:p@h/db?sslmode=require").monitor_url()
    assert psycopg.drivername == "postgresql+asyncpg"
    assert psycopg.query == {"dsn": "postgresql://?sslmode=require"}
    unable = translated("postgresql+psycopg://u:p@/db?host=h&gssencmode=require").monitor_url()
    assert unable.query == {"host": "h"}
    assert translated("sqlite+aiosqlite:////tmp/x.db").monitor_url() == make_url(
        "sqlite+aiosqlite:////tmp/x.db"
    )


def test_a_pymysql_that_aiomysql_does_not_work_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = pytest.importorskip("aiomysql.connection")
    assert translated("mysql+aiomysql://u@h/db").url.host == "h"
    monkeypatch.setattr(connection, "escape_bytes_prefixed", "DO NOT IMPORT THIS!!!")
    with pytest.raises(UnsupportedConnection, match=r"install 'pymysql<1.2'"):
        translated("mysql+aiomysql://u@h/db")
