"""Fixtures that every suite shares: real servers, started when the first test asks for one."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from services.vectors.base import VectorStore
from services.vectors.milvus import MilvusStore
from tests.servers import milvus_lite_server, milvus_server, postgres_server, redis_server, running


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AKIN_") and name != "AKIN_REQUIRE"]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def signals_end_programs() -> None:
    """Programs that tests start take over ignored signals, such as those of a run under nohup or with &."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def server_directory(name: str) -> Iterator[Path]:
    """A directory of its own for a server: unlike pytest's, another user can reach it and its path is short."""
    with tempfile.TemporaryDirectory(prefix=f"akin-{name}-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a Redis that keeps nothing on disk."""
    with server_directory("redis") as directory:
        server, url = redis_server(directory)
        with running(server):
            yield url


@pytest.fixture(scope="session")
def milvus_lite_uri() -> Iterator[str]:
    """URI of a Milvus Lite."""
    with server_directory("milvus-lite") as directory:
        server, uri = milvus_lite_server(directory)
        with running(server):
            yield uri


@pytest.fixture(scope="session")
def milvus_uri(pytestconfig: pytest.Config) -> Iterator[str]:
    """URI of a real Milvus 2.3.5 (about 1 GB of memory, 10 to 20 s to start)."""
    with server_directory("milvus") as directory:
        server, uri = milvus_server(directory, pytestconfig.cache.mkdir("milvus-2.3.5"))
        with running(server):
            yield uri


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy URL of a PostgreSQL 16's `postgres` database."""
    with server_directory("postgres") as directory:
        server, url = postgres_server(directory)
        with running(server):
            yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of its own."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield postgres_url.rpartition("/")[0] + f"/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLAlchemy URL of an empty database: once SQLite, once PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'akin.db'}"
    url: str = request.getfixturevalue("postgres_database")
    return url


@pytest.fixture(scope="session", params=["lite", pytest.param("milvus", marks=pytest.mark.milvus)])
def vector_store(request: pytest.FixtureRequest) -> Iterator[VectorStore]:
    """A vector store: once on Milvus Lite, once on the real Milvus."""
    uri = request.getfixturevalue("milvus_lite_uri" if request.param == "lite" else "milvus_uri")
    store = MilvusStore(uri)
    yield store
    store.close()


@pytest.fixture
def collection(vector_store: VectorStore) -> Iterator[str]:
    """A name that no other test uses for a collection, which is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    vector_store.drop(name)
