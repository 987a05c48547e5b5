"""Akin over real servers, with its loops driven by the test instead of by worker processes."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from flask.testing import FlaskClient
from PIL import Image as Pillow
from pydantic import SecretStr
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from services import accepting, deletion, embedding, finishing, housekeeping, reindex
from services.api.app import create_app
from services.bootstrap import prepare
from services.catalog.catalogs import DEFAULT, by_name
from services.config import Settings
from services.embedding import Batch
from services.wiring import Services, build
from workers import query

Picture = bytes


def picture(seed: int, size: tuple[int, int] = (96, 80), kind: str = "JPEG") -> Picture:
    """A small picture that looks like no other seed's."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(grid).resize(size, Pillow.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


@dataclass
class Akin:
    """A service and a caller of its API."""

    services: Services
    client: FlaskClient
    key: str

    @property
    def catalog_id(self) -> int:
        with self.services.database.reading() as session:
            return by_name(session, DEFAULT).id

    def call(self, method: str, path: str, *, key: str | None = None, **request: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {key or self.key}", **request.pop("headers", {})}
        return self.client.open(path, method=method, headers=headers, **request)

    def get(self, path: str, **request: Any) -> Any:
        response = self.call("GET", path, **request)
        assert response.status_code == 200, response.text
        return response.json

    def upload(self, data: Picture, item_id: str, **fields: str) -> Any:
        form = {"image": (io.BytesIO(data), f"{item_id}.jpg"), "item_id": item_id, **fields}
        response = self.call("POST", "/v1/images", data=form)
        assert response.status_code == 202, response.text
        return response.json

    def upload_many(self, pictures: dict[str, Picture], **fields: str) -> Any:
        form = {"files": [(io.BytesIO(data), name) for name, data in pictures.items()], **fields}
        response = self.call("POST", "/v1/imports", data=form)
        assert response.status_code == 202, response.text
        return response.json

    def search(self, data: Picture, **fields: Any) -> Any:
        response = self.call("POST", "/v1/search", data={"image": (io.BytesIO(data), "q.jpg"), **fields})
        assert response.status_code == 200, response.text
        return response.json

    def write(self, batch: Batch) -> int:
        """Encode a prepared batch and write it; how many of its pictures were marked."""
        encoded = embedding.encode(self.services, batch)
        assert encoded is not None
        return embedding.write(self.services, encoded)

    def work(self) -> None:
        """What the workers do, until there is nothing left to do."""
        accepting.accept_pending(self.services)
        deletion.advance(self.services)
        embedding.drain(self.services)
        reindex.advance(self.services)
        embedding.drain(self.services)
        reindex.advance(self.services)
        housekeeping.sweep(self.services)
        while finishing.finish_imports(self.services):
            pass


@contextmanager
def served(akin: Akin, advance: Callable[[Services], None]) -> Iterator[str]:
    """The API on a port, and a worker that goes on with jobs of one kind."""
    stop = threading.Event()
    server = make_server("127.0.0.1", 0, create_app(akin.services), threaded=True)

    def work() -> None:
        while not stop.wait(0.05):
            advance(akin.services)

    threads = [threading.Thread(target=server.serve_forever), threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stop.set()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()


@pytest.fixture
def redis_database(redis_url: str) -> Iterator[str]:
    """URL of an empty Redis."""
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
    yield redis_url


@pytest.fixture
def settings(tmp_path: Path, redis_database: str, milvus_lite_uri: str) -> Settings:
    """SQLite, Milvus Lite and a directory, as on one machine."""
    return Settings(data_dir=tmp_path, redis_url=redis_database, milvus_uri=milvus_lite_uri, decode_processes=1)


@pytest.fixture(params=["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.milvus])])
def either_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Once the servers of one machine, once PostgreSQL and the real Milvus."""
    if request.param == "embedded":
        return settings
    return settings.model_copy(
        update={
            "database_url": SecretStr(request.getfixturevalue("postgres_database")),
            "milvus_uri": request.getfixturevalue("milvus_uri"),
        }
    )


@pytest.fixture
def akin(settings: Settings) -> Iterator[Akin]:
    """A service on one machine's servers."""
    yield from _akin(settings)


@pytest.fixture
def either_akin(either_settings: Settings) -> Iterator[Akin]:
    """A service on one machine's servers, then on production's."""
    yield from _akin(either_settings)


def _akin(settings: Settings) -> Iterator[Akin]:
    prepared = prepare(settings)
    services, query_services = build(settings), build(settings)
    stop = threading.Event()
    answering = threading.Thread(target=query.run, args=(query_services, stop))
    answering.start()
    try:
        yield Akin(services, create_app(services).test_client(), prepared.local_key)
    finally:
        stop.set()
        answering.join()
        _drop_collections(services)
        services.close()
        query_services.close()


def _drop_collections(services: Services) -> None:
    from sqlalchemy import select

    from services.catalog.models import IndexRow

    with services.database.reading() as session:
        for collection in session.scalars(select(IndexRow.collection)):
            services.vectors.drop(collection)


@pytest.fixture
def pictures() -> dict[str, Picture]:
    """Thirty different pictures by file name."""
    order = list(range(30))
    random.Random(1).shuffle(order)
    return {f"kind{seed % 3}/{seed:03}.jpg": picture(seed) for seed in order}
