"""What the query process answers: pictures, sentences and pairs of pictures, from one bounded list."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import msgpack
import numpy as np
import pytest
from torch import nn

from services.bootstrap import prepare
from services.config import Settings
from services.encode_call import REQUESTS, Kind, Query, QueryEncoder
from services.encoders.agreement import agreement
from services.encoders.shipped import shipped
from services.encoders.torch_encoder import TorchEncoder
from services.errors import InvalidRequest, Overloaded, Unavailable
from services.wiring import Services, build
from tests.servers import wait_until
from tests.unit.test_encoders import checkpoint_with
from workers import query

open_clip = pytest.importorskip("open_clip")

PHOTO = next(encoder.manifest for encoder in shipped() if encoder.manifest.ref == "metric-photo@1")
SIZE = PHOTO.preprocessing.size
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def pixels(seed: int, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def several(pictures: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [pixels(seed) for seed in range(pictures)]


@pytest.fixture
def services(tmp_path: Path, redis_database: str) -> Iterator[Services]:
    """Those of a caller and of the query process, which a test lets work by `answer` or `answering`."""
    settings = Settings(data_dir=tmp_path, redis_url=redis_database, query_deadline=20, query_batch=16)
    prepare(settings)
    services = build(settings)
    yield services
    services.close()


@pytest.fixture
def photo(services: Services) -> TorchEncoder:
    encoder = services.encoders.encoder(PHOTO.weights_sha256)
    assert isinstance(encoder, TorchEncoder)
    return encoder


@pytest.fixture
def clip(services: Services, tmp_path: Path) -> TorchEncoder:
    """A small CLIP with random weights, registered: it embeds text, and has no features by place."""
    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    checkpoint = checkpoint_with("openclip:tiny-clip", {}, 32)
    services.encoders.register(checkpoint)
    encoder = services.encoders.encoder(checkpoint.manifest.weights_sha256)
    assert isinstance(encoder, TorchEncoder)
    return encoder


@pytest.fixture
def answering(services: Services) -> Iterator[None]:
    """The query process at work."""
    stop = threading.Event()
    thread = threading.Thread(target=query.run, args=(services, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def waiting(services: Services, *calls: Callable[[], Any]) -> list[Future[Any]]:
    """Callers of the query process, once all of them wait in its list, in this order, behind what is there."""
    pool = ThreadPoolExecutor(len(calls))
    futures = []
    for call in calls:
        before = services.redis.llen(REQUESTS)
        futures.append(pool.submit(call))
        wait_until(lambda before=before: services.redis.llen(REQUESTS) > before, "it waits", 10)
    pool.shutdown(wait=False)
    return futures


def sizes_of_batches(module: nn.Module) -> list[int]:
    """Filled with how many rows each call of a network or a part of it is given."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_every_caller_gets_what_it_asked_for(
    services: Services, photo: TorchEncoder, clip: TorchEncoder, answering: None
) -> None:
    ask = services.query_encoder
    photo_sha, clip_sha = photo.manifest.weights_sha256, clip.manifest.weights_sha256
    pictures = several(8)
    texts = [f"a lamp of kind {number}" for number in range(8)]

    with ThreadPoolExecutor(24) as pool:
        vectors = pool.map(lambda picture: ask.encode(photo_sha, picture), pictures)
        sentences = pool.map(lambda text: ask.encode_text(clip_sha, text), texts)
        grids = pool.map(lambda pair: ask.agreement(photo_sha, *pair), zip(pictures, pictures[::-1], strict=True))

    np.testing.assert_allclose(np.stack(list(vectors)), photo.encode(np.stack(pictures)), atol=1e-5)
    np.testing.assert_allclose(np.stack(list(sentences)), clip.encode_text(texts), atol=1e-5)
    cells = photo.grid(np.stack(pictures))
    for found, first, second in zip(grids, cells, cells[::-1], strict=True):
        for grid, expected in zip(found, agreement(first, second), strict=True):
            np.testing.assert_allclose(grid, expected, atol=1e-4)


def test_what_is_of_one_kind_and_one_encoder_is_encoded_together(
    services: Services, photo: TorchEncoder, clip: TorchEncoder
) -> None:
    photo_sha, clip_sha, ask = photo.manifest.weights_sha256, clip.manifest.weights_sha256, services.query_encoder
    photo_batches = sizes_of_batches(photo.network.stem)
    text_batches = sizes_of_batches(clip.network.body.token_embedding)
    photo.grid(np.stack(several(1)))  # it finds out the shape of its grids once
    photo_batches.clear()
    futures = waiting(
        services,
        lambda: ask.encode(photo_sha, pixels(1)),
        lambda: ask.encode_text(clip_sha, "a lamp"),
        lambda: ask.agreement(photo_sha, pixels(1), pixels(2)),
        lambda: ask.encode(photo_sha, pixels(2)),
        lambda: ask.encode_text(clip_sha, "a shoe"),
        lambda: ask.agreement(photo_sha, pixels(3), pixels(4)),
        lambda: ask.encode_text(clip_sha, "a hat"),
    )

    assert query.answer_waiting(services) == 7

    for future in futures:
        future.result(10)
    assert photo_batches == [2, 4]
    assert text_batches == [3]


def test_vectors_are_not_kept_waiting_by_explanations(services: Services, photo: TorchEncoder) -> None:
    photo.grid(np.stack(several(1)))
    batches = sizes_of_batches(photo.network.stem)
    for sent in of_each_kind("akin:answer", time.time() + 20)[::-2]:  # the agreement, then the picture
        services.redis.rpush(REQUESTS, sent.pack())

    query.answer_waiting(services)

    assert batches == [1, 2]


def test_a_picture_of_another_size_does_not_fail_those_beside_it(services: Services, photo: TorchEncoder) -> None:
    sha256, ask = photo.manifest.weights_sha256, services.query_encoder
    wrong, right = waiting(
        services, lambda: ask.encode(sha256, pixels(1, SIZE + 1)), lambda: ask.encode(sha256, pixels(1))
    )

    query.answer_waiting(services)

    assert right.result(10).any()
    with pytest.raises(Unavailable, match="expected uint8"):
        wrong.result(10)


def test_what_an_encoder_cannot_do_is_said_with_a_code(
    services: Services, photo: TorchEncoder, clip: TorchEncoder, answering: None
) -> None:
    with pytest.raises(InvalidRequest, match="metric-photo@1 embeds pictures only") as no_text:
        services.query_encoder.encode_text(photo.manifest.weights_sha256, "a lamp")
    with pytest.raises(InvalidRequest, match="tiny@3 has no features by place") as no_grid:
        services.query_encoder.agreement(clip.manifest.weights_sha256, pixels(1, 32), pixels(2, 32))

    assert no_text.value.code == "text_unsupported"
    assert no_grid.value.code == "regions_unsupported"


def of_each_kind(reply: str, deadline: float) -> list[Query]:
    sha256 = PHOTO.weights_sha256
    return [
        Query(f"{reply}:pixels", sha256, pixels(1), deadline),
        Query(f"{reply}:text", sha256, "a lamp", deadline, Kind.TEXT),
        Query(f"{reply}:agreement", sha256, np.stack([pixels(1), pixels(2)]), deadline, Kind.AGREEMENT),
    ]


def test_nothing_is_encoded_for_those_who_wait_no_more(services: Services, photo: TorchEncoder) -> None:
    batches = sizes_of_batches(photo.network.stem)
    for late in of_each_kind("akin:answer:late", time.time() - 0.1):
        services.redis.rpush(REQUESTS, late.pack())

    assert query.answer_waiting(services) == 0

    assert batches == []
    assert services.redis.keys("akin:answer:*") == []


def test_a_deadline_that_passes_behind_other_queries_counts_too(services: Services, photo: TorchEncoder) -> None:
    """The group before it took longer than it had."""
    first, _, behind = of_each_kind("akin:answer:one", time.time() + 20)
    held = photo.network.stem.register_forward_pre_hook(lambda *_: time.sleep(max(0, late - time.time())))
    late = time.time() + 0.3
    for query_ in (first, Query("akin:answer:behind", behind.encoder, behind.content, late, Kind.AGREEMENT)):
        services.redis.rpush(REQUESTS, query_.pack())

    assert query.answer_waiting(services) == 1

    held.remove()
    assert services.redis.keys("akin:answer:*") == [b"akin:answer:one:pixels"]


def test_a_full_list_refuses_every_kind_at_once(services: Services) -> None:
    """Nobody waits, nothing is added, and what waits stays in its order."""
    limit = services.settings.query_queue
    for number in range(limit):
        services.redis.rpush(REQUESTS, Query(f"akin:answer:{number}", "any", pixels(number, 8), 0.0).pack())
    before = services.redis.lrange(REQUESTS, 0, -1)
    ask = QueryEncoder(services.redis, queue_limit=limit, deadline=20)
    sha256 = PHOTO.weights_sha256
    calls: list[Callable[[], Any]] = [
        lambda: ask.encode(sha256, pixels(1)),
        lambda: ask.encode_text(sha256, "a lamp"),
        lambda: ask.agreement(sha256, pixels(1), pixels(2)),
    ]
    services.redis.ping()

    for call in calls:
        took = []
        for _ in range(5):
            began = time.perf_counter()
            with pytest.raises(Overloaded) as refused:
                call()
            took.append(time.perf_counter() - began)
            assert refused.value.retry_after == 1
        assert median(took) < 0.05, took

    assert services.redis.lrange(REQUESTS, 0, -1) == before


def test_a_database_that_is_away_when_it_starts_is_waited_for(
    services: Services, photo: TorchEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    path = services.settings.data_dir / "akin.db"
    away = path.rename(path.with_name("moved.db"))
    path.mkdir()  # what cannot be opened as a database
    stop, its_own = threading.Event(), build(services.settings)
    process = threading.Thread(target=query.run, args=(its_own, stop))
    process.start()
    try:
        wait_until(lambda: "the database does not answer" in caplog.text, "it notices", 30)
        path.rmdir()
        away.rename(path)
        asked = pixels(1)

        vector = services.query_encoder.encode(PHOTO.weights_sha256, asked)

        np.testing.assert_allclose(vector, photo.encode(asked[None])[0], atol=1e-5)
        assert process.is_alive()
    finally:
        stop.set()
        process.join()
        its_own.close()


def test_messages_of_other_releases_are_dropped(services: Services, photo: TorchEncoder) -> None:
    fields = msgpack.unpackb(of_each_kind("akin:answer:other", time.time() + 20)[0].pack())
    changed = [
        {name: value for name, value in fields.items() if name != "kind"},
        fields | {"kind": "sound"},
        fields | {"kind": "text"},
        fields | {"kind": "text", "text": b"bytes"},
        fields | {"shape": [1, 2]},
        fields | {"shape": "abc"},
        fields | {"pixels": None},
        fields | {"pixels": 7},
        fields | {"deadline": "soon"},
        fields | {"reply": None},
        fields | {"encoder": ["a"]},
    ]
    for other in [b"", b"\xc1", b"text", *map(msgpack.packb, changed)]:
        services.redis.rpush(REQUESTS, other)
    ask = services.query_encoder
    (good,) = waiting(services, lambda: ask.encode(PHOTO.weights_sha256, pixels(1)))

    assert query.answer_waiting(services) == 1

    assert good.result(10).any()
    assert services.redis.keys("akin:answer:*") == []


def test_text_that_is_none_is_still_a_message() -> None:
    sent = Query("akin:answer:x", "any", "a lamp \ud83d", 0.0, Kind.TEXT)
    assert Query.unpack(sent.pack()).content == "a lamp ?"


def test_an_encoder_that_fails_for_text_is_an_answer(services: Services, clip: TorchEncoder, answering: None) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    failing = clip.network.body.token_embedding.register_forward_pre_hook(fail)
    with pytest.raises(Unavailable, match="the encoder failed: out of memory"):
        services.query_encoder.encode_text(clip.manifest.weights_sha256, "a lamp")
    failing.remove()

    assert services.query_encoder.encode_text(clip.manifest.weights_sha256, "a lamp").any()
