"""What the secrets workload asks: a metastore behind a link, and a server that speaks Vault's protocol."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from poc_bench.database.postgres import EmbeddedPostgres
from poc_bench.environment import AirflowHome
from poc_bench.link.linked import LinkedDatabase
from poc_bench.processes import Child, module

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 1000
LATENCY = 0.02
"""Seconds that a backend takes to answer."""
RTT = 2.5
"""Milliseconds of round trip to the metastore."""


def _uri(number: int) -> str:
    return f"postgres://login:pass-word-{number:08d}-unlike-others@host{number}:5432/db?sslmode=require"


def conn_id_of(number: int) -> str:
    return f"bench_{number}"


VALUES = {conn_id_of(number): _uri(number) for number in range(CONNECTIONS)}


@contextmanager
def servers(folder: Path) -> Iterator[str]:
    """Start database, link and server and point Airflow at the database behind the link; yield a URL."""
    if "airflow" in sys.modules:
        raise RuntimeError("Airflow reads its environment when it is imported, which must come after this")
    home = AirflowHome(folder / "home")
    postgres = EmbeddedPostgres()
    try:
        postgres.create("secrets")
        direct = postgres.address("secrets")
        environment = home.environment(direct)
        link = LinkedDatabase(direct, RTT, folder, environment)
        port_file = folder / "vault-port"
        serve = module("poc_bench.secrets_servers", str(port_file))
        vault = Child("vault", serve, environment, folder)
        try:
            link.verify()
            os.environ.update(home.environment(link.address))
            _fill_metastore()
            yield f"http://127.0.0.1:{_port(port_file, vault)}"
        finally:
            _dispose()
            vault.end()
            link.process.end()
    finally:
        postgres.close()


def _port(port_file: Path, process: Child) -> int:
    while not port_file.exists():
        if process.exit_code is not None:
            raise RuntimeError(f"the server does not start: {process.last_line()}")
        time.sleep(0.01)
    return int(port_file.read_text())


def _fill_metastore() -> None:
    """Make the tables that are looked at, and store the connections."""
    from airflow.models import Connection, Team, Variable
    from airflow.models.base import Base
    from airflow.settings import engine
    from airflow.utils.session import create_session

    from async_scheduler.secrets.masking import compile_masks_when_needed

    Base.metadata.create_all(engine, [model.__table__ for model in (Team, Connection, Variable)])
    compile_masks_when_needed()
    with create_session() as session:
        session.add_all(Connection(conn_id, uri=uri) for conn_id, uri in VALUES.items())


def _dispose() -> None:
    settings = sys.modules.get("airflow.settings")
    if settings is not None:
        settings.dispose_orm(do_log=False)


async def _serve(port_file: Path) -> None:
    """Answer readings of secrets as Vault does, each after :data:`LATENCY`."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=256)
    temporary = port_file.with_suffix(".new")
    temporary.write_text(str(server.sockets[0].getsockname()[1]))
    temporary.replace(port_file)
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(LATENCY)
            conn_id = request.split(b" ", 2)[1].rpartition(b"/")[2].decode()
            data = {"data": {"conn_uri": VALUES.get(conn_id)}, "ttl": 0}
            body = json.dumps({"data": data}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
