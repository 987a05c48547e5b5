"""What `akin doctor` finds out about Redis: the queue may drop nothing, the cache has to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis

from services.config import MEGABYTE, Settings
from services.errors import ConfigurationError
from services.stack.findings import Finding, attempt, embedded, redact, what_to_do
from services.stack.servers import find_redis
from services.stack.state import RunState

REDIS_PORT = 6379


def check_redis(settings: Settings, state: RunState | None) -> Finding:
    """PING, version and eviction policy."""
    source = "configured" if settings.redis_url else "embedded"
    url = settings.redis if settings.redis_url else state.redis_url if state else None
    if url is None:
        return embedded("redis", lambda: str(find_redis()))

    def answer() -> str:
        info = _ask_redis(url)
        if (policy := info["maxmemory_policy"]) != "noeviction":
            raise ConfigurationError(f"maxmemory-policy is {policy}, which drops queued work: set it to noeviction")
        return f"answers, version {info['redis_version']}, noeviction"

    return attempt(
        "redis",
        source,
        redact(url),
        answer,
        what_to_do(settings, source, "redis", "check AKIN_REDIS_URL and that the server runs"),
    )


def check_cache(settings: Settings, state: RunState | None) -> Finding:
    """PING, and whether it makes room by itself; one that is the queue's too may not."""
    configured = settings.cache_url is not None or settings.redis_url is not None
    source = "configured" if configured else "embedded"
    url = settings.cache if configured else state.cache_url if state else None
    if url is None:
        return embedded("cache", lambda: str(find_redis()))

    def answer() -> str:
        info = _ask_redis(url)
        if settings.redis_url is not None and _server(url) == _server(settings.redis):
            return "answers; it is the queue's too: in production, set AKIN_CACHE_URL to another"
        if (policy := info["maxmemory_policy"]) == "noeviction" or not info["maxmemory"]:
            raise ConfigurationError(
                f"maxmemory-policy is {policy}, maxmemory {info['maxmemory']}, so that nothing is ever dropped: "
                "set a maxmemory, and the policy to allkeys-lru"
            )
        return f"answers, version {info['redis_version']}, {policy}, {info['maxmemory'] / MEGABYTE:,.0f} MB"

    return attempt(
        "cache",
        source,
        redact(url),
        answer,
        what_to_do(settings, source, "cache", "check AKIN_CACHE_URL and that the server runs"),
    )


def _ask_redis(url: str) -> dict[str, Any]:
    with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
        client.ping()
        info = client.info()
    assert isinstance(info, dict)
    return info


def _server(url: str) -> tuple[str | None, int]:
    """Which Redis it is, whatever the user and the number of the database."""
    address = urlsplit(url)
    return address.hostname, address.port or REDIS_PORT
