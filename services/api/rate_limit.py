"""How often a visitor of a shop may ask: requests of one address with one publishable key, a minute at a time.

The windows are fixed, so that around the turn of a minute twice as many may pass. They are counted in the cache; while
that does not answer nobody is refused: a shop's pages matter more than the limit.
"""

from __future__ import annotations

import time
from ipaddress import IPv6Address, ip_address

import redis

from services.api.auth import Caller
from services.errors import Overloaded
from services.wiring import Services

WINDOW_SECONDS = 60


def admit(services: Services, caller: Caller, address: str | None, wanted: str | None = None) -> bytes | None:
    """Count a visitor's request; returns what the cache keeps under the name `wanted`, read in the same round trip.

    Holders of secret keys are not counted. None where nothing is kept, and where the cache does not answer.

    Raises:
        Overloaded: the visitor has asked too often within this minute.
    """
    most = services.settings.widget_rate if caller.public else 0
    moment = time.time()
    try:
        with services.cache.pipeline(transaction=False) as together:
            if wanted is not None:
                together.get(wanted)
            if most:
                counter = f"akin:cache:rate:{caller.key_id}:{_visitor(address)}:{int(moment) // WINDOW_SECONDS}"
                together.incr(counter)
                together.expire(counter, WINDOW_SECONDS)
            answers = together.execute() if len(together) else []
    except redis.RedisError:
        return None
    if most and answers[-2] > most:
        remaining = WINDOW_SECONDS - int(moment) % WINDOW_SECONDS
        raise Overloaded(f"more than {most} requests within a minute", retry_after=remaining)
    return answers[0] if wanted is not None else None


def _visitor(address: str | None) -> str:
    """Who is counted as one: an address; of IPv6 the /64, which one household has to itself."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return parsed.ipv4_mapped.compressed if parsed.ipv4_mapped else f"{parsed.packed[:8].hex()}"
    return parsed.compressed
