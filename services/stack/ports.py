"""Free TCP ports on this machine."""

from __future__ import annotations

import errno
import random
import socket

from services.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
# Under the range that systems hand to outgoing connections: a server that is restarted finds its port free.
SERVER_PORTS = range(20_000, 32_000)
ATTEMPTS = 200


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen at this address now.

    Raises:
        ConfigurationError: the address is not of this machine, or the port is not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return True


def next_free(host: str, port: int) -> int:
    """The first free port from `port` upwards.

    Raises:
        ConfigurationError: none of the following ports is free.
    """
    last = min(port + ATTEMPTS, 65_536)
    for candidate in range(port, last):
        if is_free(host, candidate):
            return candidate
    raise ConfigurationError(f"no free port on {host} from {port} to {last - 1}: set AKIN_PORT")


def server_port() -> int:
    """A free loopback port for an embedded server.

    Raises:
        ConfigurationError: none was found.
    """
    for candidate in random.sample(SERVER_PORTS, ATTEMPTS):
        if is_free(LOOPBACK, candidate):
            return candidate
    raise ConfigurationError(f"no free port on {LOOPBACK} from {SERVER_PORTS.start} to {SERVER_PORTS.stop - 1}")
