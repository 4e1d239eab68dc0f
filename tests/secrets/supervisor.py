"""The far end of a task's channel: answers as the supervisor does, over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time.comms import (
    ConnectionResult,
    ErrorResponse,
    OKResponse,
    VariableResult,
    _RequestFrame,
    _ResponseFrame,
)

NO_FIELDS = dict.fromkeys(("host", "schema", "login", "password", "port", "extra"))


@dataclass
class Supervisor:
    """What there is, and what was asked."""

    connections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, request: dict[str, Any]) -> Any:
        """Return the answer to a request."""
        self.asked.append(request)
        match request:
            case {"type": "GetConnection", "conn_id": "forbidden"} | {
                "type": "GetVariable",
                "key": "forbidden",
            }:
                return ErrorResponse(error=ErrorType.PERMISSION_DENIED)
            case {"type": "GetConnection", "conn_id": conn_id} if conn_id in self.connections:
                return ConnectionResult.model_validate(
                    NO_FIELDS | {"conn_id": conn_id, **self.connections[conn_id]}
                )
            case {"type": "GetVariable", "key": key} if key in self.variables:
                return VariableResult(key=key, value=self.variables[key])
            case {"type": "GetConnection"}:
                return ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND)
            case {"type": "GetVariable"}:
                return ErrorResponse(error=ErrorType.VARIABLE_NOT_FOUND)
        return OKResponse(ok=True)

    def serve(self, channel: socket.socket) -> None:
        """Answer until the channel is closed."""
        decoder = msgspec.msgpack.Decoder(_RequestFrame)
        stream = channel.makefile("rb")
        while length := stream.read(4):
            frame = decoder.decode(stream.read(int.from_bytes(length, "big")))
            answer = self.answer(frame.body or {}).model_dump(by_alias=True)
            channel.sendall(_ResponseFrame(frame.id, answer).as_bytes())
        stream.close()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the requests of one kind."""
        return [request for request in self.asked if request["type"] == kind]


@contextmanager
def supervised(supervisor: Supervisor) -> Iterator[socket.socket]:
    """Yield the task's end of a channel that *supervisor* serves."""
    near, far = socket.socketpair()
    thread = threading.Thread(target=supervisor.serve, args=(far,), name="supervisor")
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join()
        far.close()
