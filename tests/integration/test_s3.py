"""Object storage that speaks S3: pictures' bytes kept there, and imported from there."""

from __future__ import annotations

import os
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from services.config import Settings
from services.errors import Forbidden, NotFound, TooLarge
from services.sources import prefix
from services.sources.roots import Roots
from services.storage.blobs import BlobStore
from tests.conftest import server_directory
from tests.integration.conftest import Akin, picture
from tests.servers import running, s3_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with server_directory("s3") as directory:
        server, endpoint = s3_server(directory)
        with running(server):
            yield endpoint


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket; the variables are those that every S3 tool reads."""
    variables = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    for name, value in {**variables, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")) as response:
        assert response.status == 200
    return f"s3://{name}"


@pytest.fixture
def settings(settings: Settings, bucket: str) -> Settings:
    return settings.model_copy(update={"storage_url": f"{bucket}/akin", "import_roots": f"{bucket}/photos"})


def test_objects_are_put_streamed_read_in_ranges_and_listed(bucket: str) -> None:
    store = BlobStore(f"{bucket}/store")
    body = os.urandom(20 * 1024 * 1024)

    store.put("a/b", b"hello")
    size = store.put_stream("big", (body[at : at + 2**20] for at in range(0, len(body), 2**20)), len(body))

    assert store.get("a/b") == b"hello" and size == len(body)
    with store.open("big") as file:
        file.seek(-10, 2)
        assert file.read() == body[-10:]
        file.seek(7_000_000)
        assert file.read(100) == body[7_000_000:7_000_100]
    assert {blob.key: blob.size for blob in store.list()} == {"a/b": 5, "big": len(body)}
    store.delete("a/b")
    with pytest.raises(NotFound):
        store.get("a/b")


def test_a_stream_over_the_limit_leaves_nothing(bucket: str) -> None:
    store = BlobStore(f"{bucket}/store")

    with pytest.raises(TooLarge):
        store.put_stream("big", iter([bytes(9 * 2**20)] * 3), 20 * 2**20)

    assert list(store.list()) == []


def test_a_walk_over_more_objects_than_a_page_goes_on_from_any_place(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "_PAGE", 50)
    store = BlobStore(f"{bucket}/photos")
    for number in range(120):
        store.put(f"{number:04}.jpg", b"\xff\xd8 %d" % number)
    source = Roots([bucket]).open(f"{bucket}/photos")

    whole = [(found.ref, cursor) for found, cursor in source.walk({})]
    rest = [found.ref for found, _ in Roots([bucket]).open(f"{bucket}/photos").walk(whole[54][1])]

    assert [ref for ref, _ in whole] == [f"{number:04}.jpg" for number in range(120)]
    assert rest == [ref for ref, _ in whole[55:]]


def test_a_prefix_is_imported_and_pictures_are_kept_in_the_storage(akin: Akin, bucket: str) -> None:
    photos = BlobStore(f"{bucket}/photos")
    for seed in range(5):
        photos.put(f"shoes/{seed}.jpg", picture(seed))
    photos.put("shoes/broken.jpg", b"?")
    photos.put("shoes/items.jsonl", b'{"file": "0.jpg", "item_id": "zero", "title": "Zero"}\n')

    started = akin.call("POST", "/v1/imports/source", json={"location": f"{bucket}/photos/shoes"})
    akin.work()
    job = akin.get(started.json["links"]["self"])

    assert (job["state"], job["indexed"], job["failed"]) == ("finished_with_errors", 5, 1)
    assert akin.get("/v1/items/zero")["title"] == "Zero"
    assert akin.search(picture(3), limit=1)["hits"][0]["item"]["item_id"] == "3"
    photos.put("shoes/0.jpg", picture(100) + b"longer")
    again = akin.call("POST", "/v1/imports/source", json={"location": f"{bucket}/photos/shoes"})
    akin.work()
    assert (akin.get(again.json["links"]["self"])["unchanged"], len(akin.get("/v1/items/zero")["images"])) == (4, 1)


def test_only_what_lies_under_a_root_is_read(akin: Akin, bucket: str) -> None:
    for location in (f"{bucket}/akin", f"{bucket}/photosx", "s3://other/photos", f"{bucket}/photos/../akin"):
        refused = akin.call("POST", "/v1/imports/source", json={"location": location})
        assert (refused.status_code, refused.json["code"]) == (403, "root_not_allowed")
    with pytest.raises(Forbidden):
        Roots([]).open(bucket)
