"""Beside a large import the memory of the API stays flat, and a single upload need not wait for the end."""

from __future__ import annotations

import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from services.catalog.database import Database
from services.catalog.states import EntryState
from services.client import AkinClient, ImportOptions
from tests.integration.conftest import picture
from tests.reliability.proof import prove_audited
from tests.reliability.stack import PATIENCE, Progress, Stack, running_stack, tell
from tests.servers import wait_until

MEGABYTE = 1024 * 1024
PICTURES = 5
# The API keeps two parts of 8 MB of what it is sent, and what Python's allocator does not give back.
GROWTH = 48 * MEGABYTE
LONG = [pytest.mark.full, pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("AKIN_FAULT_SEED", raising=False)
        with running_stack(tmp_path_factory.mktemp("akin")) as running:
            yield running


def archive(size: int) -> Iterator[bytes]:
    """A tar file with a few pictures, and between them something large that is none."""
    for seed in range(PICTURES):
        yield from member(f"streamed/{size}-{seed}.jpg", picture(size + seed))
    film = tarfile.TarInfo("film.bin")
    film.size = size
    yield film.tobuf(tarfile.GNU_FORMAT)
    for _ in range(size // MEGABYTE):
        yield bytes(MEGABYTE)
    yield from member(f"streamed/{size}-last.jpg", picture(size + PICTURES))
    yield bytes(2 * tarfile.BLOCKSIZE)


def member(name: str, data: bytes) -> Iterator[bytes]:
    """A file of a tar archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)


@pytest.mark.parametrize(
    "megabytes", [pytest.param(200, marks=pytest.mark.timeout(300)), pytest.param(2_000, marks=LONG)]
)
def test_the_memory_of_the_api_stays_flat_while_an_archive_streams_in(megabytes: int, stack: Stack) -> None:
    master = stack.process("api")
    sizes: list[int] = []

    def watched() -> Iterator[bytes]:
        for number, chunk in enumerate(archive(megabytes * MEGABYTE)):
            yield chunk
            if number % 10 == 0:
                sizes.append(resident(master))

    with stack.client() as client:
        before = resident(master)
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/x-tar"}
        answer = httpx.post(f"{stack.url}/v1/imports/archive", content=watched(), headers=headers, timeout=PATIENCE)
        assert answer.status_code == 202, answer.text
        rate = megabytes / (time.monotonic() - began)
        grown = (max(sizes) - before) / MEGABYTE
        tell(f"{megabytes} MB at {rate:.0f} MB/s: the API grew from {before / MEGABYTE:.0f} MB by {grown:.1f} MB")
        assert max(sizes) - before < GROWTH
        job = client.wait(answer.json()["id"], interval=0.2)
    assert (job.state, job.indexed) == ("finished", PICTURES + 1)


def resident(master: psutil.Process) -> int:
    """Bytes of memory of gunicorn and its processes."""
    return sum(process.memory_info().rss for process in [master, *master.children()])


@pytest.mark.full
@pytest.mark.faults
@pytest.mark.timeout(300)
def test_an_archive_whose_upload_is_cut_short_by_a_kill_is_taken_when_it_is_sent_again(
    stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "cut.tar"
    with path.open("wb") as file:
        for chunk in archive(20 * MEGABYTE):
            file.write(chunk)
    killed: list[int] = []

    def kill_once(sent: int) -> None:
        if sent > 10 * MEGABYTE and not killed:
            killed.append(sent)
            stack.kill_part("api")

    with stack.client() as client:
        began = time.monotonic()
        job = client.import_archive(path, "application/x-tar", ImportOptions(), kill_once)
        tell(f"the archive was taken {time.monotonic() - began:.1f} s after it was begun, and cut short once")
        assert client.wait(job.id, interval=0.2).indexed == PICTURES + 1
    assert killed


@pytest.mark.parametrize(
    "pictures", [pytest.param(1_200, marks=pytest.mark.timeout(300)), pytest.param(5_000, marks=LONG)]
)
def test_a_single_upload_is_searchable_long_before_the_end_of_an_import(
    pictures: int, stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as file:
        for seed in range(pictures):
            file.writestr(f"many-{pictures}/{seed}.jpg", picture(1_000_000 + seed))
    data = picture(pictures)

    with stack.client() as client, closing(Database(stack.settings.database)) as database:
        progress = Progress(database, pictures)
        before = progress.counts().get(EntryState.INDEXED, 0)
        job = client.import_archive(path, "application/zip", ImportOptions())
        wait_until(
            lambda: progress.counts().get(EntryState.INDEXED, 0) > before + 100, "the import has begun", PATIENCE
        )
        item_id = f"single-{pictures}"
        began = time.monotonic()
        answer = httpx.post(
            f"{stack.url}/v1/images",
            headers={"Authorization": f"Bearer {stack.key}"},
            data={"item_id": item_id},
            files={"image": ("single.jpg", data)},
            timeout=PATIENCE,
        )
        assert answer.status_code == 202, answer.text
        wait_until(lambda: item_id in _nearest(client, data), "the upload is found", PATIENCE)
        seconds = time.monotonic() - began
        running = client.job(job.id)
        tell(f"found after {seconds:.1f} s, with {running.done} of {pictures} pictures of the import done")
        assert running.done < pictures / 2
        single = client.wait(answer.json()["links"]["job"].rpartition("/")[2], interval=0.05)
        tell(f"its job was over after {time.monotonic() - began:.1f} s")
        assert single.state == "finished"
        assert client.wait(job.id).indexed == pictures
        prove_audited(client)


def _nearest(client: AkinClient, data: bytes) -> list[str]:
    """The item whose picture is this one, if there is one already."""
    return [hit.item.item_id for hit in client.search(data, limit=1, min_score=0.9999).hits]
