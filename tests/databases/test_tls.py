"""TLS, roles and several hosts on a real server, with certificates of our own."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import text

from async_scheduler.database.engine import create_engine
from async_scheduler.database.opening import finds_pooler
from async_scheduler.errors import DatabaseUnreachable
from tests.databases.servers import Postgres, postgres_server
from tests.support.ports import LOOPBACK, free_port

DRIVERS = ("asyncpg", "psycopg")
TIMEOUT = 300.0
ANOTHER = "127.0.0.2"
"""An address of the server that is not in its certificate."""
HBA = """
hostssl certified all 127.0.0.0/8 cert clientcert=verify-full
hostssl all       all 127.0.0.0/8 scram-sha-256
"""


class Authority:
    """A certificate authority whose certificates are written to *folder*."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = folder / "ca.crt"
        signed = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        self.certificate.write_bytes(signed)

    def issue(self, name: str, addresses: list[str] | None = None) -> tuple[Path, Path]:
        """Write a certificate for *name* and its key; return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses or []]
        extension = x509.SubjectAlternativeName([x509.DNSName(name), *names])
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        paths[0].write_bytes(self._sign(subject, key.public_key(), extension))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        paths[1].chmod(0o600)
        return paths

    def _sign(self, subject: x509.Name, key: Any, extension: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=1),
            not_valid_after=now + timedelta(days=1),
        ).add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Postgres]:
    """A server that speaks nothing but TLS by TCP; it wants a client's certificate for one database."""
    certificate, key = authority.issue("localhost", [LOOPBACK])
    files = {"server.crt": certificate, "server.key": key, "ca.crt": authority.certificate}
    addresses = f"'{LOOPBACK},{ANOTHER}'"
    settings = {"ssl": "on", "ssl_ca_file": "'ca.crt'", "listen_addresses": addresses}
    with postgres_server(settings, HBA, files) as started:
        started.run("CREATE DATABASE certified")
        yield started


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
async def connections_gone(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Let a test end when its TCP connections have: closing one that speaks TLS takes an answer."""
    loop = asyncio.get_running_loop()
    connect = loop.create_connection
    made: list[asyncio.BaseTransport] = []

    async def noted(*arguments: Any, **options: Any) -> Any:
        transport, protocol = await connect(*arguments, **options)
        made.append(transport)
        return transport, protocol

    monkeypatch.setattr(loop, "create_connection", noted)
    yield
    # A transport tells its protocol only that it is gone, and the protocol is the driver's.
    while any(transport.get_extra_info("socket").fileno() != -1 for transport in made):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def ask(url: str, question: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the answer that the scheduler's engine gets from the database of *url*."""
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", url)
    engine = create_engine(1, TIMEOUT)
    try:
        async with engine.connect() as connection:
            return await connection.scalar(text(question))
    finally:
        await engine.dispose()


async def probe(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect as the scheduler does at its start."""
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", url)
    await finds_pooler(TIMEOUT)


ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_a_trusted_server_is_reached_encrypted(
    server: Postgres, authority: Authority, driver: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url(driver, host=LOOPBACK, query=f"sslmode={mode}&sslrootcert={authority.certificate}")
    assert await ask(url, ENCRYPTED, monkeypatch) is True


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_server_of_another_authority_is_refused_with_the_reason(
    server: Postgres, driver: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority(tmp_path, "another authority")
    url = server.url(driver, host=LOOPBACK, query=f"sslmode={mode}&sslrootcert={other.certificate}")
    with pytest.raises(DatabaseUnreachable, match="certificate verify failed") as refused:
        await probe(url, monkeypatch)
    assert "secret" not in str(refused.value)


async def test_a_name_that_is_not_in_the_certificate_is_refused_by_verify_full_only(
    server: Postgres, authority: Authority, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust = f"sslrootcert={authority.certificate}"
    checked_less = server.url(driver, host=ANOTHER, query=f"sslmode=verify-ca&{trust}")
    assert await ask(checked_less, ENCRYPTED, monkeypatch) is True
    with pytest.raises(DatabaseUnreachable, match=r"(?i)mismatch|does not match"):
        await probe(server.url(driver, host=ANOTHER, query=f"sslmode=verify-full&{trust}"), monkeypatch)


async def test_a_client_shows_its_certificate(
    server: Postgres, authority: Authority, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = authority.issue("postgres")
    trust = f"sslmode=verify-full&sslrootcert={authority.certificate}"
    with_key = server.url(driver, "certified", f"{trust}&sslcert={certificate}&sslkey={key}", host=LOOPBACK)
    question = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert await ask(with_key, question, monkeypatch) == "/CN=postgres"
    with pytest.raises(DatabaseUnreachable):
        await probe(server.url(driver, "certified", trust, host=LOOPBACK), monkeypatch)


async def test_without_tls_the_server_does_not_answer(
    server: Postgres, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatabaseUnreachable, match=r"no encryption|SSL off"):
        await probe(server.url(driver, host=LOOPBACK, query="sslmode=disable"), monkeypatch)


async def test_options_and_names_reach_the_server(
    server: Postgres, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "options=-c%20statement_timeout%3D4321%20-c%20search_path%3Dpg_catalog&application_name=mine"
    url = server.url(driver, query=query)
    question = (
        "SELECT current_setting('statement_timeout') || current_setting('search_path') "
        "|| current_setting('application_name')"
    )
    assert await ask(url, question, monkeypatch) == "4321mspg_catalogmine"
    name = "SELECT current_setting('application_name')"
    assert await ask(server.url(driver), name, monkeypatch) == "airflow async scheduler"


async def test_the_first_of_several_hosts_that_will_do_is_taken(
    server: Postgres, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = free_port()
    hosts = f"host={LOOPBACK}:{nobody}&host={LOOPBACK}:{server.port}"
    url = f"postgresql+{driver}://postgres:secret@/postgres?{hosts}&target_session_attrs=read-write"
    assert await ask(f"{url}&connect_timeout=300", "SELECT inet_server_port()", monkeypatch) == server.port


async def test_a_host_that_does_not_answer_is_waited_for_as_long_as_asked(
    driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        url = f"postgresql+{driver}://postgres:secret@{LOOPBACK}:{silent.getsockname()[1]}/postgres"
        with pytest.raises(DatabaseUnreachable) as refused:
            await probe(f"{url}?connect_timeout=1", monkeypatch)
    assert "secret" not in str(refused.value)


async def test_no_host_that_will_do(server: Postgres, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url(driver, host=LOOPBACK, query="target_session_attrs=standby&sslmode=require")
    with pytest.raises(DatabaseUnreachable):
        await probe(url, monkeypatch)


async def test_keepalives_are_set_on_asyncpgs_socket(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow import settings

    query = "sslmode=require&keepalives_idle=77"
    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", server.url("asyncpg", host=LOOPBACK, query=query))
    engine = create_engine(1, TIMEOUT)
    async with engine.connect() as connection:
        driver_connection: Any = (await connection.get_raw_connection()).driver_connection
        found = driver_connection._transport.get_extra_info("socket")
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
    await engine.dispose()
