"""How often a visitor of a shop may ask: requests of one address with one publishable key, a minute at a time.

Requests for pictures are counted by themselves, and may be PICTURES times as many.

The windows are fixed, so that around the turn of a minute twice as many may pass. All processes count in the cache;
while that does not answer nobody is refused: a shop's pages matter more than the limit. Each process tells it of a
visitor's requests some at a time, since a round trip for each would take as long as what they ask for: of P processes
each may let a part of TOLD_PARTS more than the limit pass.
"""

from __future__ import annotations

import threading
import time
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import redis

from services.api.auth import Caller
from services.caching import PREFIX, Recent, ask
from services.errors import Overloaded
from services.wiring import Services

WINDOW_SECONDS: Final = 60
# Similar items come with a picture each, eight as a rule, while the requests for them are one.
PICTURES: Final = 10
TOLD_PARTS: Final = 30
MOST_VISITORS: Final = 50_000


def admit(services: Services, caller: Caller, address: str | None, *, requests: int = 1) -> None:
    """Count a visitor's request. Holders of secret keys are not counted.

    Args:
        requests: for how many it counts.

    Raises:
        Overloaded: the visitor has asked too often within this minute.
    """
    if caller.public:
        _count(services, ("rate", caller.key_id, _visitor(address)), requests, services.settings.widget_rate)


def admit_picture(services: Services, caller: Caller, address: str | None) -> None:
    """Count a visitor's request for a picture. A page shows several at once, so that they have a limit of their own.

    Raises:
        Overloaded: the visitor has asked for too many within this minute.
    """
    if caller.public:
        _count(services, ("pictures", caller.key_id, _visitor(address)), 1, PICTURES * services.settings.widget_rate)


class _Counted(NamedTuple):
    """Of a visitor: what all processes had told when this one told last, and what this one has not told yet."""

    told: int = 0
    untold: int = 0


# What is counted, the key, the visitor; and the window.
_Counter = tuple[tuple[str, int, str], int]
# By the cache that is told.
_counted: WeakKeyDictionary[redis.Redis, Recent[_Counter, _Counted]] = WeakKeyDictionary()
_lock = threading.Lock()


def _count(services: Services, who: tuple[str, int, str], requests: int, most: int) -> None:
    """Count requests; `most` 0 stands for any number."""
    if not most:
        return
    moment = time.time()
    counter = (who, int(moment) // WINDOW_SECONDS)
    with _lock:
        counts = _counted.get(services.cache)
        if counts is None:
            counts = _counted[services.cache] = Recent(MOST_VISITORS, seconds=WINDOW_SECONDS)
        told, untold = counts.get(counter) or _Counted()
        untold += requests
        telling = untold * TOLD_PARTS >= most
        counts.put(counter, _Counted(told, 0 if telling else untold))
    if telling:
        told, untold = _tell(services, counter, untold), 0
        with _lock:
            counts.put(counter, _Counted(told, (counts.get(counter) or _Counted()).untold))
    if told + untold > most:
        remaining = WINDOW_SECONDS - int(moment) % WINDOW_SECONDS
        raise Overloaded(f"more than {most} requests within a minute", retry_after=remaining)


def _tell(services: Services, counter: _Counter, more: int) -> int:
    """Tell the cache of requests; returns how many it knows of now, 0 where it does not answer."""
    (name, key_id, visitor), window = counter
    told = f"{PREFIX}{name}:{key_id}:{visitor}:{window}"

    def question(cache: redis.Redis) -> list[Any]:
        with cache.pipeline(transaction=False) as together:
            together.incrby(told, more)
            together.expire(told, WINDOW_SECONDS)
            return together.execute()

    answers = ask(services, question)
    return 0 if answers is None else int(answers[0])


@lru_cache(10_000)
def _visitor(address: str | None) -> str:
    """Who is counted as one: an address; of IPv6 the /64, which one household has to itself."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return parsed.ipv4_mapped.compressed if parsed.ipv4_mapped else f"{parsed.packed[:8].hex()}"
    return parsed.compressed
