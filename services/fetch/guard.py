"""Connections that lead where they were checked to lead: names are resolved once, and what was checked is dialled."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from ipaddress import ip_address
from ssl import SSLContext
from threading import local
from typing import Any

import httpcore

from services.errors import FetchFailed, FetchRefused
from services.fetch.addresses import Address, AllowList, is_public, literal

Resolver = Callable[[str, int], Sequence[str]]
"""From a name and a port to its addresses; raises OSError."""

# Resolvers cannot be interrupted: so many names may hang at a time before others have to wait for them.
_RESOLVING = 32


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system finds them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """Decides which addresses a host may be reached at. Thread-safe.

    Args:
        allowed: hosts that may be reached although they are not public.
        resolver: how names become addresses.
    """

    def __init__(self, allowed: Iterable[str] = (), resolver: Resolver = resolve) -> None:
        self._allowed = AllowList(allowed)
        self._resolver = resolver
        self._threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="resolve")

    def addresses(self, host: str, port: int, seconds: float) -> list[Address]:
        """The addresses of a host, each of which may be connected to.

        A name with one public and one private address is refused: which of them answers would be chance.

        Raises:
            FetchRefused: one of them may not.
            FetchFailed: the name has no address, or none within the time.
        """
        host = host.lower().rstrip(".")
        try:
            written = literal(host)
        except ValueError as error:
            raise FetchRefused(f"{host} is no usual way to write an address") from error
        found = [written] if written is not None else self._resolved(host, port, seconds)
        if not self._allowed.has_name(host, port):
            for address in found:
                if not (is_public(address) or self._allowed.has_address(address)):
                    # Not which address: an answer must not map the network behind the service.
                    raise FetchRefused(f"{host} is not a public address")
        return found

    def _resolved(self, host: str, port: int, seconds: float) -> list[Address]:
        asked: Future[Sequence[str]] = self._threads.submit(self._resolver, host, port)
        try:
            found = [ip_address(address) for address in asked.result(seconds)]
        except FutureTimeoutError as error:
            asked.cancel()
            raise FetchFailed(f"{host} was not found in time") from error
        except (OSError, UnicodeError, ValueError) as error:
            raise FetchFailed(f"{host} was not found") from error
        if not found:
            raise FetchFailed(f"{host} was not found")
        return found

    def close(self) -> None:
        """End the threads that resolve names, without waiting for those that hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Deadline(local):
    """When the work of the calling thread has to be over, on the clock of `time.monotonic`."""

    at = float("inf")

    def left(self, most: float | None = None) -> float:
        """Seconds that may still be waited.

        Raises:
            FetchFailed: there are none.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise FetchFailed("the server took too long")
        return left if most is None else min(left, most)


class GuardedNetwork(httpcore.NetworkBackend):
    """What httpcore makes connections with: to addresses that the guard has checked, and until the deadline."""

    def __init__(self, guard: Guard, deadline: Deadline) -> None:
        self._guard = guard
        self._deadline = deadline
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers."""
        failed: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in self._guard.addresses(host, port, self._deadline.left(timeout)):
            try:
                stream = self._network.connect_tcp(
                    str(address), port, self._deadline.left(timeout), local_address, socket_options
                )
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failed = error
            else:
                return _TimedStream(stream, self._deadline)
        raise failed or httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Sockets of this machine are nobody else's."""
        raise FetchRefused("no sockets of this machine")

    def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        time.sleep(self._deadline.left(seconds))


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends with the deadline of the thread that waits."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
