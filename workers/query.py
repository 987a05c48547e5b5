"""The query process: `python -m workers.query`. Encodes what searches wait for, in micro-batches.

It is a process of its own, because a query behind a batch of uploads waits seconds. It takes what is waiting on
the Redis list, drops what is past its deadline, encodes what goes together (pictures, sentences, or pairs of
pictures, of one encoder) and answers each on its own list.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import redis
from numpy.typing import NDArray

from services.encode_call import ANSWER_SECONDS, REQUESTS, Kind, Query, pack_answer, pack_refusal
from services.encoders.agreement import agreement
from services.encoders.base import Encoder
from services.errors import AkinError, InvalidRequest, Unavailable
from services.queue import ALIVE_SECONDS, alive_key
from services.wiring import Services
from workers.process import run_process

logger = logging.getLogger(__name__)

# How late a stop or a new heartbeat may be.
WAIT_SECONDS = 0.5
# What is away is looked for again after these.
AWAY_SECONDS = 0.5


def run(services: Services, stop: threading.Event) -> None:
    """Answer queries until told to stop; Redis or the database being away is waited out."""
    warm = False
    while not stop.is_set():
        try:
            if not warm:
                services.encoders.warm_up(services.settings.query_threads)
                warm = True
            services.redis.set(alive_key("query"), 1, ex=ALIVE_SECONDS)
            answer_waiting(services)
        except redis.RedisError as error:
            logger.warning("Redis does not answer: %s", error)
            stop.wait(AWAY_SECONDS)
        except Unavailable as error:
            logger.warning("%s", error.detail)
            stop.wait(AWAY_SECONDS)


def answer_waiting(services: Services) -> int:
    """Answer one micro-batch, waiting for a first query if there is none; returns how many were answered."""
    # In one round trip: Redis looks for others once the first is there.
    with services.redis.pipeline(transaction=False) as pipe:
        pipe.blpop([REQUESTS], timeout=WAIT_SECONDS)
        pipe.lpop(REQUESTS, services.settings.query_batch - 1)
        first, others = pipe.execute()
    packed = [*([first[1]] if first else []), *(others or [])]
    groups: dict[Hashable, list[Query]] = defaultdict(list)
    for data in packed:
        try:
            query = Query.unpack(data)
        except ValueError:
            logger.warning("dropped %d bytes that are no query", len(data))
            continue
        groups[query.group].append(query)
    # A search can do without the places in which its hits agree, and not without its vector.
    in_order = sorted(groups.values(), key=lambda queries: queries[0].kind is Kind.AGREEMENT)
    return sum(_answer(services, queries) for queries in in_order)


def _answer(services: Services, queries: Sequence[Query]) -> int:
    """Answer queries of one group. Nothing is encoded for those that nobody waits for any more."""
    moment = time.time()  # of each group: those before it may have taken long
    queries = [query for query in queries if query.deadline > moment]
    if not queries:
        return 0
    try:
        answers = _encode(services.encoders.encoder(queries[0].encoder), queries[0].kind, queries)
    except InvalidRequest as error:
        answers = [pack_refusal(error.detail, error.code)] * len(queries)
    except (AkinError, ValueError, RuntimeError) as error:
        # One encoder that cannot be loaded, or a batch it refuses, must not end the answers of the others.
        logger.exception("encoder %s failed", queries[0].encoder[:12])
        answers = [pack_refusal(f"the encoder failed: {error}")] * len(queries)
    with services.redis.pipeline(transaction=False) as pipe:
        for query, answer in zip(queries, answers, strict=True):
            pipe.rpush(query.reply, answer)
            pipe.expire(query.reply, ANSWER_SECONDS)
        pipe.execute()
    return len(queries)


def _encode(encoder: Encoder, kind: Kind, queries: Sequence[Query]) -> list[bytes]:
    """The packed answers to queries of one kind, in their order.

    Raises:
        InvalidRequest: the encoder cannot answer this kind.
    """
    ref = encoder.manifest.ref
    match kind:
        case Kind.PIXELS:
            return [pack_answer([vector]) for vector in encoder.encode(_pixels(queries))]
        case Kind.TEXT:
            if not encoder.manifest.embeds_text:
                raise InvalidRequest(f"{ref} embeds pictures only", code="text_unsupported")
            texts = [query.content for query in queries if isinstance(query.content, str)]
            return [pack_answer([vector]) for vector in encoder.encode_text(texts)]
        case Kind.AGREEMENT:
            if not encoder.has_grid:
                raise InvalidRequest(f"{ref} has no features by place", code="regions_unsupported")
            pairs = _pixels(queries)
            grids = encoder.grid(pairs.reshape(-1, *pairs.shape[2:]))
            return [pack_answer(agreement(*pair)) for pair in zip(grids[::2], grids[1::2], strict=True)]


def _pixels(queries: Sequence[Query]) -> NDArray[np.uint8]:
    return np.stack([query.content for query in queries if not isinstance(query.content, str)])


if __name__ == "__main__":
    run_process(run)
