"""Messages between the bench executor and the worker simulator: one JSON array a line, over a unix socket."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

CHUNK = 1 << 18

SOCKET = "POC_BENCH_SOCKET"
HEARTBEAT_SECONDS = "POC_BENCH_HEARTBEAT_SECONDS"
READY_DIRECTORY = "POC_BENCH_READY_DIRECTORY"
HAS_TO_BE_ASKED = "POC_BENCH_HAS_TO_BE_ASKED"
"""Environment variables by which the harness tells an executor about its cell."""


def announce_ready() -> None:
    """Leave a file that tells the harness that this scheduler's loop is turning."""
    Path(os.environ[READY_DIRECTORY], str(os.getpid())).touch()


class Submitted(NamedTuple):
    """A task instance handed to a worker."""

    id: str
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int


class Ended(NamedTuple):
    """A worker process that ended; ``accepted`` is False when the API refused to start it."""

    id: str
    accepted: bool


class Lines:
    """The receiving side of a socket: bytes in, decoded arrays out. The socket must not block."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._rest = b""
        self.closed = False

    def read(self) -> Iterator[list[Any]]:
        """Yield every whole line that has arrived, without waiting. Sets ``closed`` at the stream's end."""
        while True:
            try:
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self.closed = True
                break
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            yield json.loads(line)


def encode(messages: list[Submitted] | list[Ended]) -> bytes:
    """Return *messages* as one line."""
    return json.dumps(messages, separators=(",", ":")).encode() + b"\n"
