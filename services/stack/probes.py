"""Questions to parts of the stack: each gives None when the part answers, else a sentence that says why not."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx
import redis

from services.stack.program import Probe

TIMEOUT = 3.0
MILVUS_PORT = 19_530


def redis_probe(url: str) -> Probe:
    """PING a Redis."""

    def probe() -> str | None:
        try:
            with redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as client:
                client.ping()
        except (redis.RedisError, ValueError) as error:  # ValueError: not a redis URL
            return str(error)
        return None

    return probe


def milvus_probe(uri: str) -> Probe:
    """Connect to a Milvus. Its client library is not imported: it is 170 MB that the supervisor would keep."""
    address = urlsplit(uri)

    def probe() -> str | None:
        try:
            port = address.port or MILVUS_PORT
            socket.create_connection((address.hostname or "", port), timeout=TIMEOUT).close()
        except (OSError, ValueError) as error:  # ValueError: not a port
            return str(error)
        return None

    return probe


def api_probe(url: str) -> Probe:
    """Ask the API whether every part that it needs is ready."""

    def probe() -> str | None:
        try:
            response = httpx.get(f"{url}/readyz", timeout=TIMEOUT, trust_env=False)  # loopback: never by a proxy
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if response.status_code == httpx.codes.OK else f"/readyz says {response.text.strip()[:500]}"

    return probe
