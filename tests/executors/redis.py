"""A Redis of the tests' own, on a unix socket."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.databases.servers import Account, folder, program, running
from tests.support.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Redis:
    """A running server."""

    socket: Path

    def url(self, number: int) -> str:
        """Return the URL of one of its databases, as Celery wants it."""
        return f"redis+socket://{self.socket}?virtual_host={number}"

    def ask(self, *command: str) -> str:
        """Return the server's answer to *command*, in the first database."""
        cli = [program("redis-cli", "redis-tools"), "-s", str(self.socket)]
        done = subprocess.run([*cli, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def messages(self) -> int:
        """Return how many of Celery's messages nobody has confirmed yet, those under work included."""
        return int(self.ask("LLEN", "default")) + int(self.ask("HLEN", "unacked"))


@contextmanager
def redis_server() -> Iterator[Redis]:
    """Start a server that listens on a unix socket only and keeps nothing."""
    command = program("redis-server", "redis-server")
    account = Account.of("root")
    with folder(account) as root:
        root.chmod(0o700)
        server = Redis(root / "socket")
        options = {"port": "0", "unixsocket": str(server.socket), "unixsocketperm": "700"}
        options |= {"dir": str(root), "save": "", "appendonly": "no", "daemonize": "no"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with running([command, *arguments], account, root / "log", server.socket):
            wait_until(lambda: server.ask("PING") == "PONG")
            yield server
