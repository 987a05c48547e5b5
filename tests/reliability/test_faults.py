"""kill -9 in the middle of an import, and a reindex under searches: nothing lost, nothing twice, nobody refused."""

from __future__ import annotations

import os
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from services.catalog import catalogs
from services.catalog.database import Database
from services.catalog.models import Embedding, Image, IndexRow
from services.catalog.states import EmbeddingState
from services.client import AkinClient, UploadFile
from services.stack.background import background_stack
from services.stack.state import RunState
from services.vectors.milvus import MilvusStore
from tests.integration.conftest import picture
from tests.servers import free_ports, require, wait_until

CLOTHING = Path(__file__).parents[2] / ".." / "shared" / "data" / "clothing.zip"
BATCH = 100
Source = Callable[[], Iterator[tuple[str, bytes]]]


def drawn() -> Iterator[tuple[str, bytes]]:
    """Few pictures, for every run of the tests."""
    for seed in range(600):
        yield f"drawn/{seed}.jpg", picture(seed)


def photographs() -> Iterator[tuple[str, bytes]]:
    """3,409 photographs of clothes."""
    if not CLOTHING.exists():
        require("clothing", "the photographs of clothes are not on this machine")
    with zipfile.ZipFile(CLOTHING) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
            yield name, archive.read(name)


SOURCES = [
    pytest.param(drawn, id="drawn"),
    pytest.param(photographs, id="photographs", marks=[pytest.mark.full, pytest.mark.timeout(900)]),
]


def environment() -> dict[str, str]:
    # Short leases, so that a killed worker's rows come back within the test.
    return {"AKIN_PORT": str(free_ports(1)[0]), "AKIN_LEASE_SECONDS": "5", "AKIN_EMBED_BATCH": "32"}


def upload(client: AkinClient, files: Sequence[tuple[str, bytes]]) -> list[str]:
    return [
        client.import_files([UploadFile(name, data) for name, data in files[start : start + BATCH]]).id
        for start in range(0, len(files), BATCH)
    ]


def indexed(data_dir: Path) -> int:
    with closing(Database(f"sqlite:///{data_dir / 'akin.db'}")) as database, database.reading() as session:
        return session.scalar(select(func.count()).where(Embedding.state == EmbeddingState.INDEXED)) or 0


def wait_for_jobs(client: AkinClient, jobs: Sequence[str]) -> tuple[int, int]:
    """How many entries of the jobs ended indexed or unchanged, and failed."""
    ended = [client.wait(job, interval=0.3) for job in jobs]
    assert {job.state for job in ended} <= {"finished", "finished_with_errors"}
    return sum(job.indexed + job.unchanged for job in ended), sum(job.failed for job in ended)


def prove_complete(state: RunState, data_dir: Path, expected: int) -> None:
    """Exactly one vector for each picture in the live index, and each picture's nearest neighbour is itself."""
    store = MilvusStore(state.milvus_uri)
    with closing(Database(f"sqlite:///{data_dir / 'akin.db'}")) as database, database.reading() as session:
        index = catalogs.live_index(session, catalogs.by_name(session, catalogs.DEFAULT).id)
        assert session.scalar(select(func.count()).select_from(Image)) == expected
        rows = session.scalar(
            select(func.count()).where(Embedding.index_id == index.id, Embedding.state == EmbeddingState.INDEXED)
        )
        assert rows == expected
        ids = session.scalars(select(Image.id)).all()
    with closing(store):
        assert store.count(index.collection, strong=True) == expected
        assert store.present(index.collection, ids, strong=True) == set(ids)
        _every_picture_finds_itself(store, index, ids)


def _every_picture_finds_itself(store: MilvusStore, index: IndexRow, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), 200):
        some = store.fetch(index.collection, ids[start : start + 200], strong=True)
        for image_id, hits in zip(some, store.search(index.collection, np.stack(list(some.values())), 5), strict=True):
            assert hits[0].score >= 0.999
            # Pictures that the encoder cannot tell apart tie with it; it must be among the first even so.
            assert image_id in [hit.id for hit in hits if hits[0].score - hit.score < 1e-5]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.timeout(240)
def test_kill_9_of_workers_and_of_the_whole_stack_in_the_middle_of_an_import(source: Source, tmp_path: Path) -> None:
    files = list(source())
    variables = environment()

    with background_stack(tmp_path, environment=variables) as state:
        with AkinClient(state.api_url, state.api_key) as client:
            jobs = upload(client, files)
            for part, share in (("worker-embed", 0.1), ("worker-imports", 0.2), ("redis", 0.3), ("worker-embed", 0.4)):
                wait_until(lambda share=share: indexed(tmp_path) >= share * len(files), f"{share:.0%} indexed", 180)
                running = RunState.read(tmp_path)
                assert running is not None
                os.kill(running.children[part].pid, signal.SIGKILL)
            wait_until(lambda: indexed(tmp_path) >= 0.5 * len(files), "half indexed", 180)
        assert indexed(tmp_path) < len(files), "too quick for this test: kill earlier"
        os.kill(state.pid, signal.SIGKILL)  # akin up itself: every part of the stack dies

    with background_stack(tmp_path, environment=variables) as state:
        with AkinClient(state.api_url, state.api_key) as client:
            done, failed = wait_for_jobs(client, jobs)
        assert done + failed == len(files)
        assert failed == 0
        prove_complete(state, tmp_path, len(files))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.timeout(240)
def test_a_reindex_to_another_dimension_while_a_client_searches_without_pause(source: Source, tmp_path: Path) -> None:
    files = list(source())
    with background_stack(tmp_path, environment=environment()) as state:
        with AkinClient(state.api_url, state.api_key, patience=0) as client:
            wait_for_jobs(client, upload(client, files))
            stop = threading.Event()
            seen: list[tuple[str, float]] = []
            refused: list[str] = []

            def search() -> None:
                for number in range(sys.maxsize):
                    if stop.is_set():
                        return
                    try:
                        answer = client.search(files[number * 37 % len(files)][1], limit=3)
                        seen.append((answer.encoder, answer.hits[0].score))
                    except Exception as error:  # noqa: BLE001 - whatever it is, the request has failed
                        refused.append(repr(error))

            searching = threading.Thread(target=search)
            searching.start()
            try:
                job = client.wait(client.reindex("conv-ae-64"), interval=0.3)
            finally:
                wait_until(lambda: bool(seen) and seen[-1][0] == "conv-ae-64@1", "searches in the new index", 30)
                stop.set()
                searching.join()

        assert job.state == "finished"
        assert job.indexed == len(files)
        assert refused == []
        assert {encoder for encoder, _ in seen} == {"metric-photo@1", "conv-ae-64@1"}
        assert min(score for _, score in seen) >= 0.999
        prove_complete(state, tmp_path, len(files))
