"""How often a visitor of a shop may ask: requests of one address with one publishable key, a minute at a time.

Requests for pictures are counted by themselves, and may be PICTURES times as many.

The windows are fixed, so that around the turn of a minute twice as many may pass. They are counted in the cache; while
that does not answer nobody is refused: a shop's pages matter more than the limit.
"""

from __future__ import annotations

import time
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, NamedTuple

import redis

from services.api.auth import Caller
from services.caching import PREFIX, ask
from services.errors import Overloaded
from services.wiring import Services

WINDOW_SECONDS: Final = 60
# Similar items come with a picture each, eight as a rule, while the requests for them are one.
PICTURES: Final = 10


def admit(
    services: Services, caller: Caller, address: str | None, wanted: str | None = None, *, requests: int = 1
) -> bytes | None:
    """Count a visitor's request; returns what the cache keeps under the name `wanted`, read in the same round trip.

    Args:
        requests: for how many it counts. Holders of secret keys are not counted.

    None where nothing is kept, and where the cache does not answer.

    Raises:
        Overloaded: the visitor has asked too often within this minute.
    """
    most = services.settings.widget_rate
    return _admit(services, caller, address, _Count("rate", requests, most), wanted)


def admit_picture(services: Services, caller: Caller, address: str | None) -> None:
    """Count a visitor's request for a picture. A page shows several at once, so that they have a limit of their own.

    Raises:
        Overloaded: the visitor has asked for too many within this minute.
    """
    _admit(services, caller, address, _Count("pictures", 1, PICTURES * services.settings.widget_rate))


class _Count(NamedTuple):
    name: str
    more: int
    # 0: any number.
    most: int


def _admit(
    services: Services, caller: Caller, address: str | None, count: _Count, wanted: str | None = None
) -> bytes | None:
    moment = time.time()
    most = count.most if caller.public else 0

    def question(cache: redis.Redis) -> list[Any]:
        with cache.pipeline(transaction=False) as together:
            if wanted is not None:
                together.get(wanted)
            if most:
                window = int(moment) // WINDOW_SECONDS
                counter = f"{PREFIX}{count.name}:{caller.key_id}:{_visitor(address)}:{window}"
                together.incrby(counter, count.more)
                together.expire(counter, WINDOW_SECONDS)
            return together.execute()

    answers = ask(services, question) if most or wanted is not None else None
    if answers is None:
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
