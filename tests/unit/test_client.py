"""The API client: typed answers, typed errors, bounded retries."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Response
from PIL import Image

from services import errors
from services.answers import Job
from services.client import AkinClient, ImportOptions, UploadFile
from services.connection import CHUNK_BYTES
from tests.unit.api_server import ENCODER, KEY, ApiServer, api_server, problem


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as running:
        yield running


@pytest.fixture
def client(server: ApiServer) -> Iterator[AkinClient]:
    with AkinClient(server.url, KEY, patience=5) as connected:
        yield connected


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_import_sends_files_under_their_references_with_a_parallel_manifest(
    server: ApiServer, client: AkinClient
) -> None:
    job = client.import_files(
        [UploadFile("dress/1.jpg", b"one"), UploadFile("söck & Co.png", b"two", {"item_id": "s", "title": "Söckchen"})]
    )

    assert (job.state, job.total, job.over) == ("queued", 2, False)
    assert server.imports == [[("dress/1.jpg", b"one"), ("söck & Co.png", b"two")]]
    assert server.manifests == [[{}, {"item_id": "s", "title": "Söckchen"}]]


def test_waiting_for_a_job_reports_each_state_until_it_is_over(server: ApiServer, client: AkinClient) -> None:
    server.polls_until_done = 2
    job = client.import_files([UploadFile("a.jpg", b"a"), UploadFile("b.jpg", b"broken")])
    seen: list[Job] = []

    final = client.wait(job.id, seen.append, interval=0.01)

    assert [job.state for job in seen] == ["running", "running", "finished_with_errors"]
    assert (final.indexed, final.failed, final.over) == (1, 1, True)


@pytest.mark.parametrize(
    ("eta_seconds", "asked"),
    [
        (1000.0, range(2, 5)),  # as seldom as may be
        (0.0, range(8, 40)),  # it takes longer than was expected
        (None, range(8, 40)),
    ],
)
def test_a_job_is_asked_for_when_it_is_expected_to_be_over(
    server: ApiServer, client: AkinClient, eta_seconds: float | None, asked: range
) -> None:
    server.polls_until_done, server.eta_seconds = 10**9, eta_seconds
    job = client.import_files([UploadFile("a.jpg", b"a")])
    seen: list[Job] = []

    def note(job: Job) -> None:
        seen.append(job)
        if time.monotonic() - began > 1:
            server.polls_until_done = 0

    began = time.monotonic()
    client.wait(job.id, note, interval=0.1)

    assert len(seen) - 1 in asked


def test_the_errors_of_a_job_are_read_to_the_last_page(server: ApiServer, client: AkinClient) -> None:
    job = client.import_files([UploadFile(f"{n}.jpg", b"broken") for n in range(250)])

    found = [error.ref for error in client.job_errors(job.id)]

    assert found == [f"{n}.jpg" for n in range(250)]


def test_searches_return_typed_hits(server: ApiServer, client: AkinClient) -> None:
    client.import_files([UploadFile("dress/1.jpg", b"one"), UploadFile("dress/2.jpg", b"two")])

    result = client.search(b"two", limit=2, min_score=0.1)

    assert result.encoder == ENCODER
    assert [(hit.rank, hit.item.item_id) for hit in result.hits] == [(1, "dress/2"), (2, "dress/1")]
    assert result.hits[0].item.attributes["brand"] == "Northwick"


def test_an_item_id_with_slashes_names_one_item(server: ApiServer, client: AkinClient) -> None:
    client.import_files([UploadFile("dress/1.jpg", b"one")])

    assert client.similar("dress/1", limit=1).hits[0].item.item_id == "dress/1"


def test_a_thumbnail_is_a_picture_of_the_size_asked_for(client: AkinClient) -> None:
    with Image.open(io.BytesIO(client.thumbnail("3", 128))) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (128, 128))


def test_the_catalog_is_named_in_every_request(server: ApiServer) -> None:
    with AkinClient(server.url, KEY, catalog="shoes & more") as client:
        client.import_files([UploadFile("a.jpg", b"a")])

    assert server.requests == ["POST /v1/imports?catalog=shoes+%26+more"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (problem(400, "bad_cursor", "why"), errors.InvalidRequest),
        (problem(401, "key_expired", "why"), errors.Unauthorized),
        (problem(403, "scope", "why"), errors.Forbidden),
        (problem(404, "no_job", "why"), errors.NotFound),
        (problem(409, "busy", "why"), errors.Conflict),
        (problem(413, "too_large", "why"), errors.TooLarge),
        (problem(422, "image_broken", "why"), errors.ImageRejected),
        (problem(500, "internal", "why"), errors.AkinError),
    ],
)
def test_a_problem_becomes_a_typed_error_at_once(
    server: ApiServer, client: AkinClient, answer: Response, expected: type[errors.AkinError]
) -> None:
    code = answer.get_json(force=True)["code"]
    server.faults.append(answer)

    with pytest.raises(expected) as raised:
        client.job("x")

    assert (type(raised.value), raised.value.code, raised.value.detail) == (expected, code, "why")
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again_no_earlier_than_it_says(server: ApiServer, client: AkinClient) -> None:
    server.faults.extend([problem(429, "overloaded", "full", "1"), problem(503, "unavailable", "starting", "0")])
    started = time.monotonic()

    job = client.import_files([UploadFile("a.jpg", b"a")])

    assert job.total == 1
    assert time.monotonic() - started >= 1
    assert len(server.requests) == 3


def test_retrying_ends_when_patience_does(server: ApiServer) -> None:
    server.faults.extend(problem(503, "unavailable", "Milvus does not answer", "0") for _ in range(100))
    started = time.monotonic()

    with AkinClient(server.url, KEY, patience=1) as client, pytest.raises(errors.Unavailable, match="Milvus"):
        client.job("x")

    assert time.monotonic() - started < 2
    assert len(server.requests) < 10


def test_a_server_that_is_not_there_is_named(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"

    with AkinClient(url, KEY, patience=0.3) as client, pytest.raises(errors.Unavailable, match=url):
        client.job("x")


def test_a_server_that_comes_back_is_used_again(free_port: int) -> None:
    with AkinClient(f"http://127.0.0.1:{free_port}", KEY, patience=20) as client, ThreadPoolExecutor(1) as pool:
        assert client.ready() is False
        upload = pool.submit(client.import_files, [UploadFile("a.jpg", b"a")])

        with api_server(free_port):
            assert upload.result(timeout=20).total == 1
            assert client.ready() is True


def test_a_refused_upload_ends_long_before_the_whole_file_is_sent(server: ApiServer, tmp_path: Path) -> None:
    file = tmp_path / "large.tar"
    with file.open("wb") as stream:
        stream.truncate(2 * 1024**3)
    server.faults += [problem(429, "overloaded", "full", "1"), problem(401, "unauthorized", "unknown key")]
    sent: list[int] = []
    waits: list[float] = []

    with AkinClient(server.url, KEY, patience=0) as client, pytest.raises(errors.Unauthorized, match="unknown key"):
        client.wait_out(lambda _, seconds: waits.append(seconds))
        client.import_archive(file, "application/x-tar", ImportOptions(), sent.append)

    assert (sent.count(0), waits) == (2, [1.0])
    assert max(sent) < 1024**3


def test_a_file_that_becomes_shorter_while_it_is_uploaded_is_not_taken(server: ApiServer, tmp_path: Path) -> None:
    file = tmp_path / "all.tar"
    file.write_bytes(bytes(4 * CHUNK_BYTES))

    with (
        AkinClient(server.url, KEY, patience=5) as client,
        pytest.raises(errors.InvalidRequest, match="became shorter"),
    ):
        client.import_archive(file, "application/x-tar", ImportOptions(), lambda _: file.write_bytes(b"x"))

    assert not server.jobs


def test_an_answer_of_something_else_is_not_taken_for_akins(server: ApiServer, client: AkinClient) -> None:
    server.faults.extend([Response("<html>Welcome!</html>", 200), Response("<html>Gone</html>", 404)])

    with pytest.raises(errors.Unavailable, match="did not answer like an Akin server"):
        client.job("x")
    with pytest.raises(errors.NotFound, match="HTTP 404"):
        client.job("x")


def test_one_client_serves_many_threads(server: ApiServer, client: AkinClient) -> None:
    client.import_files([UploadFile(f"{n}.jpg", str(n).encode()) for n in range(8)])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: client.search(str(n % 8).encode(), limit=1), range(80)))

    assert [result.hits[0].item.item_id for result in results] == [str(n % 8) for n in range(80)]


def test_closing_ends_a_wait_for_another_try(server: ApiServer) -> None:
    server.faults.extend(problem(503, "unavailable", "busy", "10") for _ in range(3))
    client = AkinClient(server.url, KEY)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.job, "x")
        asked = threading.Event()
        while not server.requests:
            asked.wait(0.01)

        client.close()

        with pytest.raises(errors.Unavailable):
            waiting.result(timeout=5)


def test_an_address_without_a_scheme_is_refused_in_words() -> None:
    with AkinClient("localhost:8080", KEY, patience=0) as client, pytest.raises(errors.AkinError, match="localhost"):
        client.job("x")
