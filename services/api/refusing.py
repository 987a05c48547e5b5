"""Refusing what comes while too much waits already: in the event loop, which has no thread to wait for."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from contextlib import suppress
from selectors import EVENT_READ, BaseSelector
from typing import Final

from services.api.errors import RETRY_AFTER, described
from services.errors import Unavailable

# For so long more may wait than should: a crowd that came at once is gone by then.
MOMENT_SECONDS: Final = 0.5
# Until then a client that was refused may go on to send: to close before it has read the answer would take it away.
LINGER_SECONDS: Final = 2.0
READ_BYTES: Final = 64 * 1024
MOST_REFUSED: Final = 256

_BODY = json.dumps(described(Unavailable("too many requests are waiting: ask again in a moment", part="api"))).encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
    b"Retry-After: %d\r\nConnection: close\r\n\r\n%b" % (len(_BODY), RETRY_AFTER, _BODY)
)


class Crowd:
    """Whether more wait than may, for longer than a moment; and from then on until half as many do.

    Args:
        most: how many may wait.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._since: float | None = None

    def is_too_large(self, waiting: int) -> bool:
        """Of so many as wait now."""
        moment = time.monotonic()
        if waiting <= self.most // 2:
            self._since = None
        elif waiting > self.most and self._since is None:
            self._since = moment
        return waiting > self.most and self._since is not None and moment - self._since >= MOMENT_SECONDS


class Refusals:
    """Connections that were refused, until their clients have read why.

    Args:
        poller: calls what is registered with a socket once there is something to read.
    """

    def __init__(self, poller: BaseSelector) -> None:
        self._poller = poller
        # Until when, the earliest first.
        self._open: dict[socket.socket, float] = {}

    @property
    def full(self) -> bool:
        """Whether no more may be refused at the moment: each takes one of the files that a process may have open."""
        return len(self._open) >= MOST_REFUSED

    def refuse(self, client: socket.socket) -> None:
        """Answer 503 to a connection that nobody reads from, and close it in the end."""
        client.setblocking(False)
        try:
            client.send(_ANSWER)
            client.shutdown(socket.SHUT_WR)
            self._poller.register(client, EVENT_READ, self._read)
        except OSError:  # it is gone
            client.close()
        else:
            self._open[client] = time.monotonic() + LINGER_SECONDS

    def close_overdue(self) -> None:
        """Close those whose clients had time enough."""
        moment = time.monotonic()
        for client in [client for client, until in self._open.items() if until < moment]:
            self._close(client)

    def _read(self, client: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = client.recv(READ_BYTES)
        if not data:
            self._close(client)

    def _close(self, client: socket.socket) -> None:
        del self._open[client]
        self._poller.unregister(client)
        client.close()


def waiting_on(listener: socket.socket) -> int:
    """How many connections nobody has taken yet. Linux tells (tcp(7): tcpi_unacked of TCP_INFO); elsewhere 0."""
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    waiting: int
    (waiting,) = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28), 24)
    return waiting
