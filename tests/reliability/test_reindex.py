"""A reindex under searches: nobody refused, nothing missing."""

from __future__ import annotations

import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.client import UploadFile
from tests.integration.conftest import picture
from tests.reliability.proof import prove_complete
from tests.reliability.stack import running_stack
from tests.servers import require, wait_until

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


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.timeout(300)
def test_a_reindex_to_another_dimension_while_a_client_searches_without_pause(source: Source, tmp_path: Path) -> None:
    files = [UploadFile(name, data) for name, data in source()]
    with running_stack(tmp_path, {"AKIN_EMBED_BATCH": "32"}) as stack, stack.client(patience=0) as client:
        jobs = [client.import_files(files[start : start + BATCH]).id for start in range(0, len(files), BATCH)]
        assert sum(client.wait(job, interval=0.3).indexed for job in jobs) == len(files)
        stop = threading.Event()
        seen: list[tuple[str, float]] = []
        refused: list[str] = []

        def search() -> None:
            for number in range(sys.maxsize):
                if stop.is_set():
                    return
                try:
                    answer = client.search(files[number * 37 % len(files)].content, limit=3)
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
        prove_complete(stack, len(files))
