"""An HTTP client that does no more than it must: it shares the cores with the server that is measured."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress

SECONDS = 60.0


def request(method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """A request of HTTP/1.1, whose headers name the host."""
    told = headers if body is None else {**headers, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    return "\r\n".join(lines).encode() + (body or b"")


class Connection:
    """One connection, kept open; for one thread. Answers must tell their length, as all of Akin's do that are JSON."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._connect()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Where the server closed the connection, it is asked once more on another."""
        with suppress(ConnectionError):
            return self._exchange(request)
        self.close()
        self._connect()
        return self._exchange(request)

    def close(self) -> None:
        """Close it."""
        self._answers.close()
        self._socket.close()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        self._socket.sendall(request)
        first, length = self._line(), 0
        while (line := self._line()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._answers.read(length)
        if len(body) < length:
            raise ConnectionResetError("the server closed the connection within an answer")
        return int(first.split()[1]), body

    def _line(self) -> bytes:
        line = self._answers.readline()
        if not line:
            raise ConnectionResetError("the server closed the connection")
        return line
