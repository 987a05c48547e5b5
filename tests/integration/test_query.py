"""The query process and its Redis list."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import redis
from sqlalchemy import select

from services.catalog.models import EncoderRow
from services.encode_call import REQUESTS, Query, QueryEncoder
from services.errors import Overloaded, Unavailable
from services.queue import COALESCE_SECONDS, Task, TaskQueue
from tests.conftest import server_directory
from tests.integration.conftest import Akin
from tests.servers import redis_server, running
from workers import scheduler


def pixels(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def encoders(akin: Akin) -> dict[str, str]:
    with akin.services.database.reading() as session:
        return {row.ref: row.sha256 for row in session.scalars(select(EncoderRow))}


def test_many_callers_each_get_their_own_vector(akin: Akin) -> None:
    known = encoders(akin)
    local = {ref: akin.services.encoders.encoder(sha256) for ref, sha256 in known.items()}
    asked = [
        (ref, pixels(seed, encoder.manifest.preprocessing.size)) for seed in range(20) for ref, encoder in local.items()
    ]

    with ThreadPoolExecutor(16) as pool:
        vectors = list(pool.map(lambda q: akin.services.query_encoder.encode(known[q[0]], q[1]), asked))

    for (ref, picture), vector in zip(asked, vectors, strict=True):
        np.testing.assert_allclose(vector, local[ref].encode(picture[None])[0], atol=1e-5)


def test_a_query_past_its_deadline_is_not_encoded(akin: Akin) -> None:
    (sha256, *_) = encoders(akin).values()
    late = Query("akin:answer:late", sha256, pixels(1), time.time() - 1)
    akin.services.redis.rpush(REQUESTS, late.pack())

    akin.services.query_encoder.encode(sha256, pixels(2))  # behind it in the list

    assert not akin.services.redis.exists("akin:answer:late")


def test_an_encoder_that_is_not_there_is_an_answer_and_not_the_end(akin: Akin) -> None:
    with pytest.raises(Unavailable, match="no encoder"):
        akin.services.query_encoder.encode("0" * 64, pixels(1))
    (sha256, *_) = encoders(akin).values()
    assert akin.services.query_encoder.encode(sha256, pixels(1)).any()


def test_what_is_no_query_is_dropped(akin: Akin) -> None:
    (sha256, *_) = encoders(akin).values()
    for garbage in (b"", b"\xc1", b"\x80", b"text"):
        akin.services.redis.rpush(REQUESTS, garbage)

    assert akin.services.query_encoder.encode(sha256, pixels(1)).any()


def test_a_full_list_refuses_at_once(akin: Akin) -> None:
    (sha256, *_) = encoders(akin).values()
    full = QueryEncoder(akin.services.redis, queue_limit=0, deadline=5)
    began = time.monotonic()
    with pytest.raises(Overloaded):
        full.encode(sha256, pixels(1))
    assert time.monotonic() - began < 1


def test_a_redis_that_is_full_refuses_at_once() -> None:
    with server_directory("redis") as directory:
        server, url = redis_server(directory)
        with running(server), redis.Redis.from_url(url) as connection:
            connection.config_set("maxmemory", 1)
            caller = QueryEncoder(connection, queue_limit=9, deadline=5)
            began = time.monotonic()
            with pytest.raises(Unavailable, match="Redis"):
                caller.encode("any", pixels(1))
            assert time.monotonic() - began < 2

            # The connection on which nobody waits any more is not used for another question.
            connection.config_set("maxmemory", 0)
            with pytest.raises(Overloaded):
                QueryEncoder(connection, queue_limit=0, deadline=5).encode("any", pixels(1))


def test_without_a_query_process_a_search_ends_at_its_deadline(redis_database: str) -> None:
    with redis.Redis.from_url(redis_database) as connection:
        impatient = QueryEncoder(connection, queue_limit=9, deadline=0.2)
        with pytest.raises(Unavailable, match="in time"):
            impatient.encode("any", pixels(1))


def test_wake_ups_of_a_task_coalesce_until_it_is_taken(akin: Akin) -> None:
    queue, connection = akin.services.queue, akin.services.redis

    for _ in range(5):
        assert queue.wake(Task.EMBED)
    assert connection.llen("embed") == 1
    queue.taken(Task.EMBED)
    queue.wake(Task.EMBED)

    assert connection.llen("embed") == 2
    assert 0 < connection.ttl("akin:waiting:akin.embed") <= COALESCE_SECONDS


def test_the_scheduler_wakes_every_task(akin: Akin) -> None:
    stop = threading.Event()
    running = threading.Thread(target=scheduler.run, args=(akin.services, stop))
    running.start()
    stop.set()
    running.join()

    waiting = {queue: akin.services.redis.llen(queue) for queue in ("embed", "imports", "maintenance")}
    assert waiting == {"embed": 3, "imports": 1, "maintenance": 6}


def test_a_wake_up_while_redis_is_away_is_made_up_for_later(akin: Akin) -> None:
    away = TaskQueue(akin.services.settings, redis.Redis(port=9, socket_connect_timeout=1))
    assert not away.wake(Task.EMBED)


def test_the_query_process_waits_redis_out(akin: Akin) -> None:
    """Its loop goes on after Redis refused it, here because the connection was closed under it."""
    (sha256, *_) = encoders(akin).values()
    for client in akin.services.redis.client_list():
        if client["cmd"] == "blpop":
            akin.services.redis.client_kill(client["addr"])

    assert akin.services.query_encoder.encode(sha256, pixels(1)).any()
