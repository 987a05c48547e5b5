"""The query process: `python -m workers.query`. Encodes pictures that searches wait for, in micro-batches.

It is a process of its own, because a query behind a batch of uploads waits seconds. It takes what is waiting on
the Redis list, drops what is past its deadline, encodes the rest together and answers each on its own list.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import redis

from services.encode_call import REQUESTS, Query, pack_answer
from services.errors import AkinError
from services.queue import ALIVE_SECONDS, alive_key
from services.wiring import Services
from workers.process import run_process

logger = logging.getLogger(__name__)

# How late a stop or a new heartbeat may be.
WAIT_SECONDS = 0.5
# An answer that nobody fetches (the caller gave up) goes by itself.
ANSWER_SECONDS = 30


def run(services: Services, stop: threading.Event) -> None:
    """Answer queries until told to stop; Redis or the database being away is waited out."""
    services.encoders.warm_up()
    while not stop.is_set():
        try:
            services.redis.set(alive_key("query"), 1, ex=ALIVE_SECONDS)
            answer_waiting(services)
        except redis.RedisError as error:
            logger.warning("Redis does not answer: %s", error)
            stop.wait(0.5)


def answer_waiting(services: Services) -> int:
    """Answer one micro-batch, waiting for a first query if there is none; returns how many were answered."""
    first = services.redis.blpop([REQUESTS], timeout=WAIT_SECONDS)
    if first is None:
        return 0
    packed = [first[1], *(services.redis.lpop(REQUESTS, services.settings.query_batch - 1) or [])]
    moment = time.time()
    by_encoder: dict[str, list[Query]] = defaultdict(list)
    for data in packed:
        try:
            query = Query.unpack(data)
        except ValueError:
            logger.warning("dropped %d bytes that are no query", len(data))
            continue
        if query.deadline > moment:
            by_encoder[query.encoder].append(query)
    for sha256, queries in by_encoder.items():
        _answer(services, sha256, queries)
    return sum(map(len, by_encoder.values()))


def _answer(services: Services, sha256: str, queries: Sequence[Query]) -> None:
    try:
        vectors: Iterable[np.ndarray] = services.encoders.encoder(sha256).encode(
            np.stack([query.pixels for query in queries])
        )
        answers = [pack_answer(vector) for vector in vectors]
    except (AkinError, ValueError, RuntimeError) as error:
        # One encoder that cannot be loaded, or a batch it refuses, must not end the answers of the others.
        logger.exception("encoder %s failed", sha256[:12])
        answers = [pack_answer(None, f"the encoder failed: {error}")] * len(queries)
    with services.redis.pipeline(transaction=False) as pipe:
        for query, answer in zip(queries, answers, strict=True):
            pipe.rpush(query.reply, answer)
            pipe.expire(query.reply, ANSWER_SECONDS)
        pipe.execute()


if __name__ == "__main__":
    run_process(run)
