"""Imports from archives, manifests, folders and other servers: streamed, resumed, in modes, in turns."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from werkzeug.serving import make_server

from services import (
    accepting,
    audit,
    embedding,
    finishing,
    gathering,
    housekeeping,
    ingest,
    listing,
    reindex,
    writing,
)
from services.catalog import catalogs, entries, replacing
from services.catalog.database import now
from services.catalog.items import ItemFields
from services.catalog.models import Embedding, Image, Job, JobEntry
from services.catalog.states import EmbeddingState, EntryState
from services.config import Settings
from services.content import source_key
from services.errors import NotFound, Unavailable
from services.fetch.client import Fetcher, Limits
from services.fetch.guard import Guard
from services.sources.base import Problem, Reference
from services.sources.manifest import Manifest
from services.sources.roots import Roots
from services.sources.walks import Walks
from services.storage.blobs import key_of
from services.wiring import build
from tests.integration.conftest import Akin, picture


def zipped(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def lines(*records: Mapping[str, Any]) -> bytes:
    return "\n".join(json.dumps(record) for record in records).encode()


def send(akin: Akin, path: str, body: bytes, media_type: str, **query: str) -> Any:
    response = akin.call("POST", path, data=body, content_type=media_type, query_string=query)
    assert response.status_code == 202, response.text
    return response.json


def post(akin: Akin, path: str, **body: Any) -> Any:
    response = akin.call("POST", path, json=body)
    assert response.status_code == 202, response.text
    return response.json


def over(akin: Akin, job: Any) -> Any:
    """The job after the workers have done what there is to do."""
    akin.work()
    return akin.get(job["links"]["self"])


def item_ids(akin: Akin) -> set[str]:
    return {item["item_id"] for item in akin.get("/v1/items?limit=200")["data"]}


def pictures_of(akin: Akin, item_id: str) -> list[str]:
    return [image["sha256"] for image in akin.get(f"/v1/items/{item_id}")["images"]]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Shop:
    """A server of pictures that counts what it is asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []
        self.failing: set[str] = set()
        self.dribbling: set[str] = set()
        self.think: Callable[[], object] = lambda: None
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shop.think()
                data = shop.files.get(self.path)
                tag = f'"{sha256(data)[:16]}"' if data is not None else None
                status = 503 if self.path in shop.failing else 404 if data is None else 200
                if status == 200 and self.headers.get("If-None-Match") == tag:
                    status = 304
                shop.asked.append((self.path, status))
                self.send_response(status)
                if tag:
                    self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(data) if status == 200 and data else 0))
                self.end_headers()
                if status == 200 and data and self.path in shop.dribbling:
                    self._dribble(data)
                elif status == 200 and data:
                    self.wfile.write(data)

            def _dribble(self, data: bytes) -> None:
                with contextlib.suppress(OSError):  # nobody waits for its end
                    for at in range(len(data)):
                        self.wfile.write(data[at : at + 1])
                        time.sleep(0.05)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder that imports may read."""
    folder = tmp_path / "photos"
    (folder / "shoes").mkdir(parents=True)
    for seed in range(5):
        (folder / "shoes" / f"{seed}.jpg").write_bytes(picture(seed))
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def settings(settings: Settings, photos: Path) -> Settings:
    return settings.model_copy(update={"import_roots": str(photos), "fetch_allow": "127.0.0.1"})


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_every_picture_of_an_archive_becomes_searchable_or_is_listed(either_akin: Akin, kind: str) -> None:
    akin = either_akin
    files = {f"shoes/{seed}.jpg": picture(seed) for seed in range(70)}
    files |= {"broken.jpg": b"\xff\xd8 broken", "notes.txt": b"hello", "../../evil.jpg": picture(100)}
    files = {"items.jsonl": lines({"file": "shoes/3.jpg", "item_id": "three", "title": "Three"}), **files}
    body = zipped(files) if kind == "zip" else tarred(files, "w" if kind == "tar" else "w:gz")
    media_type = {"zip": "application/zip", "tar": "application/x-tar", "tar.gz": "application/gzip"}[kind]

    job = over(akin, send(akin, "/v1/imports/archive", body, media_type))

    assert job["state"] == "finished_with_errors" and job["listed"]
    assert (job["total"], job["indexed"], job["failed"]) == (72, 71, 1)
    assert job["errors"][0]["ref"] == "broken.jpg"
    assert akin.get("/v1/items/three")["title"] == "Three"
    assert "evil" in item_ids(akin)
    assert akin.search(picture(42), limit=1)["hits"][0]["item"]["item_id"] == "shoes/42"


@pytest.mark.parametrize(("pictures", "sealed"), [(3, True), (2, False)])
def test_only_imports_of_many_pictures_have_their_vectors_sealed(
    akin: Akin, monkeypatch: pytest.MonkeyPatch, pictures: int, sealed: bool
) -> None:
    monkeypatch.setattr(writing, "SEALED_FROM", 3)
    asked: list[str] = []

    def seal(collection: str) -> None:
        asked.append(collection)
        raise Unavailable("Milvus takes one in ten seconds")

    monkeypatch.setattr(akin.services.vectors, "seal", seal)
    job = akin.upload_many({f"{number}.jpg": picture(number) for number in range(pictures)})
    akin.work()

    with akin.services.database.reading() as session:
        live = catalogs.live_index(session, akin.catalog_id).collection
    assert asked == ([live] if sealed else [])
    assert akin.get(f"/v1/jobs/{job['id']}")["state"] == "finished"


def test_an_archive_is_kept_while_something_of_it_may_be_retried(akin: Akin) -> None:
    whole = send(akin, "/v1/imports/archive", zipped({"a.jpg": picture(1)}), "application/zip")
    part = send(akin, "/v1/imports/archive", zipped({"b.jpg": picture(2), "c.jpg": b"?"}), "application/zip")

    over(akin, whole)

    assert not akin.services.blobs.exists(source_key(whole["id"]))
    assert akin.services.blobs.exists(source_key(part["id"]))


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"PK\x03\x04 and then nothing", "archive_unreadable"), (b"plain text", "archive_unreadable")],
)
def test_an_archive_that_cannot_be_read_fails_its_job_with_the_reason(akin: Akin, body: bytes, code: str) -> None:
    job = over(akin, send(akin, "/v1/imports/archive", body, "application/zip"))

    assert job["state"] == "failed"
    assert job["error"]["code"] == code


def test_what_came_before_the_damage_of_an_archive_is_taken(akin: Akin) -> None:
    body = tarred({f"{seed}.jpg": picture(seed) for seed in range(6)}, "w")

    job = over(akin, send(akin, "/v1/imports/archive", body[:5000], "application/x-tar"))

    assert job["state"] == "failed" and job["error"]["code"] == "archive_unreadable"
    assert 1 <= job["indexed"] < 6
    assert len(item_ids(akin)) == job["indexed"]


def test_a_listing_that_was_killed_goes_on_where_it_was(
    akin: Akin, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(listing, "LISTED_AT_ONCE", 7)
    files = {f"{seed:02}.jpg": picture(seed) for seed in range(40)}
    job = send(akin, "/v1/imports/archive", tarred(files), "application/gzip")
    stored: list[str] = []
    store = listing.content.store
    monkeypatch.setattr(listing.content, "store", lambda s, data: stored.append(sha256(data)) or store(s, data))

    for _ in range(6):  # every piece in a process of its own
        services = build(settings)
        accepting.take_turn(services)
        services.close()
    done = over(akin, job)

    assert (done["state"], done["total"], done["indexed"]) == ("finished", 40, 40)
    assert len(stored) == len(set(stored)) == 40, "nothing was listed twice"


def test_a_piece_of_a_listing_ends_in_time_although_nothing_was_found(
    akin: Akin, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(listing, "PIECE_SECONDS", -1.0)
    files = {f"{number}.txt": b"" for number in range(9)} | {"last.jpg": picture(1)}
    job = send(akin, "/v1/imports/archive", tarred(files), "application/gzip")

    cursors = []
    for _ in range(3):  # every piece in a process of its own
        services = build(settings)
        accepting.take_turn(services)
        services.close()
        with akin.services.database.reading() as session:
            cursors.append(session.get_one(Job, job["id"]).cursor["offset"])
    waiting = akin.get(job["links"]["self"])
    done = over(akin, job)

    assert cursors == sorted(set(cursors)), "each went on where the other had stopped"
    assert (waiting["total"], waiting["listed"]) == (0, False)
    assert (done["state"], done["total"], done["indexed"]) == ("finished", 1, 1)


def test_large_archives_come_to_their_end_although_not_all_can_stay_open(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PIECE_SECONDS", -1.0)
    akin.services.__dict__["walks"] = Walks(most=1)
    jobs = [
        send(akin, "/v1/imports/archive", tarred({"film": bytes(10**8), "a.jpg": picture(seed)}), "application/gzip")
        for seed in range(2)
    ]

    akin.work()

    assert [akin.get(job["links"]["self"])["state"] for job in jobs] == ["finished"] * 2


def test_a_manifest_adds_changes_and_leaves_alone(either_akin: Akin, shop: Shop) -> None:
    akin = either_akin
    shop.files = {"/a.jpg": picture(1), "/b.jpg": picture(2)}
    first = lines(
        {"item_id": "a", "image": f"{shop.url}/a.jpg", "attributes": {"price": 1}},
        {"item_id": "b", "image": f"{shop.url}/b.jpg"},
    )
    assert over(akin, send(akin, "/v1/imports/manifest", first, "application/x-ndjson"))["indexed"] == 2
    shop.asked.clear()

    again = over(akin, send(akin, "/v1/imports/manifest", first, "application/x-ndjson"))

    assert (again["unchanged"], again["indexed"]) == (2, 0)
    assert sorted(shop.asked) == [("/a.jpg", 304), ("/b.jpg", 304)], "asked on condition, nothing was sent"

    shop.files["/b.jpg"] = picture(3)
    embedded = _embedded(akin)
    changed = lines(
        {"item_id": "a", "image": f"{shop.url}/a.jpg", "attributes": {"price": 2}},
        {"item_id": "b", "image": f"{shop.url}/b.jpg", "title": "B"},
    )
    after = over(akin, send(akin, "/v1/imports/manifest", changed, "application/x-ndjson"))

    assert (after["unchanged"], after["indexed"]) == (1, 1)
    assert akin.get("/v1/items/a")["attributes"] == {"price": 2}
    assert pictures_of(akin, "b") == [sha256(picture(3))], "the new picture took the place of the old"
    assert _embedded(akin) - embedded == 1, "the picture that stayed was not embedded again"


def _embedded(akin: Akin) -> int:
    """How many pictures were ever given to the encoder: ids of ledger rows are never used twice."""
    with akin.services.database.reading() as session:
        return session.scalar(select(func.max(Embedding.id))) or 0


def test_lines_without_a_picture_change_the_item_only(akin: Akin) -> None:
    akin.upload(picture(1), "a", title="Old")

    job = over(
        akin,
        send(akin, "/v1/imports/manifest", b"item_id,title,attributes.price\na,New,12.5\nb,B,\n", "text/csv"),
    )

    assert (job["state"], job["unchanged"], job["total"]) == ("finished", 2, 2)
    assert akin.get("/v1/items/a")["title"] == "New"
    assert akin.get("/v1/items/a")["attributes"] == {"price": 12.5}
    assert akin.get("/v1/items/b")["images"] == []


def test_replacing_removes_what_the_manifest_no_longer_names_but_only_after_success(
    either_akin: Akin, shop: Shop
) -> None:
    akin = either_akin
    shop.files = {f"/{seed}.jpg": picture(seed) for seed in range(4)}
    akin.upload(picture(50), "by-hand")
    akin.call("PUT", "/v1/items/empty", json={"title": "without pictures"})
    akin.work()

    def replaced(*names: int, broken: bool = False) -> Any:
        records = [{"item_id": f"i{n}", "image": f"{shop.url}/{n}.jpg"} for n in names]
        records += [{"item_id": "gone", "image": f"{shop.url}/none.jpg"}] if broken else []
        body = lines(*records)
        return over(akin, send(akin, "/v1/imports/manifest", body, "application/x-ndjson", mode="replace"))

    failed = replaced(0, 1, broken=True)
    assert failed["state"] == "finished_with_errors" and failed["failed_by_code"] == {"fetch_failed": 1}
    assert item_ids(akin) == {"by-hand", "empty", "i0", "i1"}, "nothing goes while something failed"

    assert replaced(0, 1)["result"] == {"removed_images": 1, "removed_items": 2}
    assert item_ids(akin) == {"i0", "i1"}

    assert replaced(1, 2)["state"] == "finished"
    assert item_ids(akin) == {"i1", "i2"}
    assert {hit["item"]["item_id"] for hit in akin.search(picture(0))["hits"]} == {"i1", "i2"}


def test_what_is_uploaded_during_a_replacing_import_stays(akin: Akin, shop: Shop) -> None:
    shop.files = {"/1.jpg": picture(1)}
    body = lines({"item_id": "named", "image": f"{shop.url}/1.jpg"})
    job = send(akin, "/v1/imports/manifest", body, "application/x-ndjson", mode="replace")
    akin.upload(picture(2), "meanwhile")

    assert over(akin, job)["state"] == "finished"
    assert item_ids(akin) == {"named", "meanwhile"}


def test_a_picture_that_is_uploaded_again_during_a_replacing_import_stays(akin: Akin, shop: Shop) -> None:
    akin.upload(picture(2), "again")
    akin.upload(picture(3), "old")
    akin.work()
    shop.files = {"/1.jpg": picture(1)}
    body = lines({"item_id": "named", "image": f"{shop.url}/1.jpg"})
    job = send(akin, "/v1/imports/manifest", body, "application/x-ndjson", mode="replace")
    assert akin.upload(picture(2), "again")["created"] is False

    assert over(akin, job)["state"] == "finished"
    assert item_ids(akin) == {"named", "again"}


def test_a_line_without_a_picture_keeps_its_items_pictures_in_a_replacing_import(akin: Akin) -> None:
    akin.upload(picture(1), "kept")
    akin.upload(picture(2), "gone")
    akin.work()

    job = over(akin, send(akin, "/v1/imports/manifest", b"item_id,title\nkept,Kept\n", "text/csv", mode="replace"))

    assert job["result"] == {"removed_images": 1, "removed_items": 1}
    assert pictures_of(akin, "kept") == [sha256(picture(1))]


def test_a_replacing_import_of_nothing_removes_nothing(akin: Akin, photos: Path) -> None:
    akin.upload(picture(1), "kept")
    akin.work()
    (photos / "empty").mkdir()

    job = over(akin, post(akin, "/v1/imports/source", location=str(photos / "empty"), mode="replace"))

    assert (job["state"], job["error"]["code"]) == ("failed", "source_empty")
    assert item_ids(akin) == {"kept"}


def test_what_a_source_lists_as_unreadable_stays_failed_and_keeps_a_replacement_from_removing(akin: Akin) -> None:
    akin.upload(picture(1), "kept")
    akin.work()
    body = b'{"item_id": "a", "title": "A"}\nno json\n'
    job = send(akin, "/v1/imports/manifest", body, "application/x-ndjson", mode="replace")
    assert over(akin, job)["failed_by_code"] == {"entry_invalid": 1}

    assert akin.call("POST", f"{job['links']['self']}/retry").status_code == 200
    again = over(akin, job)

    assert (again["state"], again["failed_by_code"]) == ("finished_with_errors", {"entry_invalid": 1})
    assert item_ids(akin) == {"kept", "a"}


def test_a_cancelled_replacement_removes_nothing_more(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "REMOVED_AT_ONCE", 1)
    for seed in range(3):
        akin.upload(picture(seed), f"old-{seed}")
    akin.work()
    body = zipped({"new.jpg": picture(9)})
    job = send(akin, "/v1/imports/archive", body, "application/zip", mode="replace")
    accepting.accept_pending(akin.services)
    embedding.drain(akin.services)

    finishing.finish_imports(akin.services)
    assert akin.call("POST", f"{job['links']['self']}/cancel").status_code == 200
    finishing.finish_imports(akin.services)

    assert len([one for one in item_ids(akin) if pictures_of(akin, one)]) == 3, "one of three old, and the new"


def test_what_arrives_for_a_cancelled_import_is_not_kept(akin: Akin, shop: Shop) -> None:
    shop.files = {"/list.csv": b"item_id\na\n"}
    job = post(akin, "/v1/imports/source", url=f"{shop.url}/list.csv")
    shop.think = lambda: akin.call("POST", f"{job['links']['self']}/cancel")

    accepting.take_turn(akin.services)

    assert shop.asked == [("/list.csv", 200)]
    assert over(akin, job)["state"] == "cancelled"
    assert list(akin.services.blobs.list("sources")) == []


def test_what_had_arrived_for_a_cancelled_import_goes_with_it(akin: Akin, shop: Shop) -> None:
    job = post(akin, "/v1/imports/source", url=f"{shop.url}/list.csv")
    akin.services.blobs.put(source_key(job["id"]), b"item_id")  # by a worker that was killed then

    assert akin.call("POST", f"{job['links']['self']}/cancel").status_code == 200

    assert list(akin.services.blobs.list("sources")) == []


def test_an_archive_goes_with_the_history_of_its_import(akin: Akin) -> None:
    body = zipped({"a.jpg": b"no picture"})
    old, recent = (send(akin, "/v1/imports/archive", body, "application/zip") for _ in range(2))
    akin.work()
    with akin.services.database.transaction() as session:
        days = akin.services.settings.job_history_days
        over_at = now() - timedelta(days=days, hours=1)
        session.execute(update(Job).where(Job.id == old["id"]).values(finished_at=over_at))

    housekeeping.sweep(akin.services)

    assert akin.call("GET", old["links"]["self"]).status_code == 404
    assert [found.key for found in akin.services.blobs.list("sources")] == [source_key(recent["id"])]


def test_an_import_into_a_catalog_that_was_just_deleted_stops_no_other(akin: Akin) -> None:
    akin.call("POST", "/v1/catalogs", json={"name": "shop"})
    with akin.services.database.reading() as session:
        shop_id = catalogs.by_name(session, "shop").id
    assert akin.call("DELETE", "/v1/catalogs/shop").status_code == 202

    with pytest.raises(NotFound):
        ingest.start_stored(akin.services, shop_id, iter([zipped({})]), {"form": "archive"}, ingest.Options())
    job = akin.upload_many({"a.jpg": picture(1)})

    assert over(akin, job)["state"] == "finished"
    assert list(akin.services.blobs.list("sources")) == []


def test_a_reindex_does_not_hold_up_imports(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "LEDGER_AHEAD", 5)
    akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(10)})
    for _ in range(3):
        akin.work()
    assert akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"}).status_code == 202
    reindex.advance(akin.services)  # more rows than may be ahead
    job = akin.upload_many({"new.jpg": picture(50)})

    accepting.accept_pending(akin.services)

    assert akin.get(job["links"]["self"])["accepted"] == 1


def test_a_folder_that_may_no_longer_be_read_fails_its_entries(akin: Akin, photos: Path) -> None:
    manifest = lines({"item_id": "x", "image": "shoes/1.jpg"})
    job = send(akin, "/v1/imports/manifest", manifest, "application/x-ndjson", base=str(photos))
    akin.services.__dict__["roots"] = Roots([])

    ended = over(akin, job)

    assert ended["state"] == "failed" and ended["error"]["code"] == "root_not_allowed"


def test_a_slash_at_the_end_of_a_place_does_not_make_it_another(akin: Akin, photos: Path) -> None:
    over(akin, post(akin, "/v1/imports/source", location=str(photos / "shoes")))
    (photos / "shoes" / "3.jpg").write_bytes(picture(33))
    over(akin, post(akin, "/v1/imports/source", location=f"{photos}/shoes/"))

    assert pictures_of(akin, "3") == [sha256(picture(33))]


def test_creating_leaves_items_that_were_there_as_they_are(akin: Akin) -> None:
    akin.upload(picture(1), "old", title="Old")
    body = zipped({"old.jpg": picture(2), "new.jpg": picture(3)})

    job = over(akin, send(akin, "/v1/imports/archive", body, "application/zip", mode="create"))

    assert job["failed_by_code"] == {"item_exists": 1} and job["indexed"] == 1
    assert pictures_of(akin, "old") == [sha256(picture(1))]
    assert not akin.services.blobs.exists(key_of(sha256(picture(2)))), "what is refused is not stored"


def torn(seed: int) -> bytes:
    """A picture whose header is good, and whose pixels end too soon."""
    data = picture(seed, (400, 300))
    return data[: len(data) // 2]


def test_the_pictures_before_one_that_failed_give_way_to_the_next_good_one(either_akin: Akin, photos: Path) -> None:
    akin = either_akin
    location = str(photos / "shoes")
    first = over(akin, post(akin, "/v1/imports/source", location=location))
    (photos / "shoes" / "3.jpg").write_bytes(torn(30))
    second = over(akin, post(akin, "/v1/imports/source", location=location))
    kept = pictures_of(akin, "3")
    (photos / "shoes" / "3.jpg").write_bytes(picture(33))
    third = over(akin, post(akin, "/v1/imports/source", location=location))

    assert (first["indexed"], second["failed"], third["indexed"]) == (5, 1, 1)
    assert sha256(picture(3)) in kept, "what is searchable stays while nothing else is"
    assert pictures_of(akin, "3") == [sha256(picture(33))]
    assert third["result"] == {"replaced_images": 2}


def test_a_picture_that_comes_back_after_one_that_failed_stays(akin: Akin, photos: Path) -> None:
    location = str(photos / "shoes")
    for data in (picture(3), torn(30), picture(3)):
        (photos / "shoes" / "3.jpg").write_bytes(data)
        last = over(akin, post(akin, "/v1/imports/source", location=location))

    assert last["unchanged"] == 5
    assert pictures_of(akin, "3") == [sha256(picture(3))]


def test_a_picture_that_somebody_uploads_by_hand_is_not_taken_for_a_former_one(akin: Akin, photos: Path) -> None:
    location = str(photos / "shoes")
    for data in (picture(3), torn(30)):
        (photos / "shoes" / "3.jpg").write_bytes(data)
        over(akin, post(akin, "/v1/imports/source", location=location))
    (photos / "shoes" / "3.jpg").write_bytes(picture(33))
    job = post(akin, "/v1/imports/source", location=location)
    assert akin.upload(picture(3), "3")["created"] is False

    over(akin, job)

    assert sorted(pictures_of(akin, "3")) == sorted([sha256(picture(3)), sha256(picture(33))])


def test_what_a_cancelled_import_accepted_takes_the_place_of_what_was_there(either_akin: Akin, photos: Path) -> None:
    akin = either_akin
    location = str(photos / "shoes")
    over(akin, post(akin, "/v1/imports/source", location=location))
    (photos / "shoes" / "3.jpg").write_bytes(picture(33))
    (photos / "shoes" / "4.jpg").write_bytes(torn(40))
    job = post(akin, "/v1/imports/source", location=location)
    accepting.accept_pending(akin.services)

    assert akin.call("POST", f"{job['links']['self']}/cancel").status_code == 200
    finishing.finish_imports(akin.services)
    before = pictures_of(akin, "3")
    ended = over(akin, job)

    assert sha256(picture(3)) in before, "the old one is there until the new one is searchable"
    assert (ended["state"], ended["indexed"], ended["failed"]) == ("cancelled", 1, 1)
    assert pictures_of(akin, "3") == [sha256(picture(33))]
    assert sha256(picture(4)) in pictures_of(akin, "4"), "its place was taken by nothing that is searchable"
    with akin.services.database.reading() as session:
        assert replacing.left_by_cancelled(session, 10) == [], "it is not looked at for ever"


def test_what_a_later_import_names_again_outlives_the_end_of_a_cancelled_one(either_akin: Akin, photos: Path) -> None:
    akin = either_akin
    location = str(photos / "shoes")
    over(akin, post(akin, "/v1/imports/source", location=location))
    (photos / "shoes" / "3.jpg").write_bytes(picture(33))
    wrong = post(akin, "/v1/imports/source", location=location)
    accepting.accept_pending(akin.services)
    assert akin.call("POST", f"{wrong['links']['self']}/cancel").status_code == 200
    (photos / "shoes" / "3.jpg").write_bytes(picture(3))
    right = post(akin, "/v1/imports/source", location=location)
    accepting.accept_pending(akin.services)

    over(akin, wrong)
    ended = over(akin, right)

    assert (ended["state"], ended["unchanged"], ended["failed"]) == ("finished", 5, 0)
    assert pictures_of(akin, "3") == [sha256(picture(3))]
    assert ended["result"] == {"replaced_images": 1}


def test_what_a_server_sent_meanwhile_outlives_the_import_that_found_nothing_new(akin: Akin, shop: Shop) -> None:
    """Of two imports at the same time one is told that nothing has changed, and the other a moment later gets more."""
    shop.files = {"/a.jpg": picture(1)}
    records = lines({"item_id": "a", "image": f"{shop.url}/a.jpg"})
    over(akin, send(akin, "/v1/imports/manifest", records, "application/x-ndjson"))
    slow = send(akin, "/v1/imports/manifest", records, "application/x-ndjson")
    (job,) = _open_imports(akin)
    listing.list_more(akin.services, job)
    with akin.services.database.transaction() as session:
        claimed = entries.claim(session, job.id, 10, now() + timedelta(minutes=1))
    told = [one for piece in gathering.gather(akin.services, job, claimed) for one in piece]
    shop.files["/a.jpg"] = picture(2)
    quick = send(akin, "/v1/imports/manifest", records, "application/x-ndjson")
    accepting.accept_pending(akin.services)
    with akin.services.database.transaction() as session:
        accepting._settle(session, job.id, {entry.id: outcome for entry, outcome in told})

    over(akin, quick)
    over(akin, slow)

    assert [type(outcome) for _, outcome in told] == [gathering.Unmodified]
    assert pictures_of(akin, "a") == [sha256(picture(2))]


def _open_imports(akin: Akin) -> list[Job]:
    with akin.services.database.reading() as session:
        return list(session.scalars(select(Job).where(Job.finished_at.is_(None))))


def test_a_server_that_has_the_same_picture_again_makes_those_before_it_go(akin: Akin, shop: Shop) -> None:
    shop.files = {"/a.jpg": torn(1)}
    records = lines({"item_id": "a", "image": f"{shop.url}/a.jpg"})

    def imported() -> Any:
        return over(akin, send(akin, "/v1/imports/manifest", records, "application/x-ndjson"))

    assert imported()["failed"] == 1
    shop.files["/a.jpg"] = picture(2)
    job = send(akin, "/v1/imports/manifest", records, "application/x-ndjson")
    accepting.accept_pending(akin.services)
    with akin.services.database.transaction() as session:  # as an import left it that was cancelled by now
        session.execute(update(JobEntry).values(replaces=None))
    assert over(akin, job)["indexed"] == 1
    assert len(pictures_of(akin, "a")) == 2

    assert imported()["unchanged"] == 1
    assert shop.asked[-1] == ("/a.jpg", 304)
    assert pictures_of(akin, "a") == [sha256(picture(2))]


def test_files_that_changed_their_names_lose_neither_picture(akin: Akin, photos: Path) -> None:
    manifest = lines({"item_id": "x", "image": "a.jpg"}, {"item_id": "x", "image": "b.jpg"})
    for first, second in ((1, 2), (2, 1)):
        (photos / "a.jpg").write_bytes(picture(first))
        (photos / "b.jpg").write_bytes(picture(second))
        over(akin, send(akin, "/v1/imports/manifest", manifest, "application/x-ndjson", base=str(photos)))

        assert sorted(pictures_of(akin, "x")) == sorted([sha256(picture(1)), sha256(picture(2))])


def test_a_folder_is_read_only_below_a_configured_root(akin: Akin, photos: Path) -> None:
    job = over(akin, post(akin, "/v1/imports/source", location=str(photos / "shoes")))
    refused = akin.call("POST", "/v1/imports/source", json={"location": "/etc"})

    assert (job["state"], job["indexed"]) == ("finished", 5)
    assert refused.status_code == 403 and refused.json["code"] == "root_not_allowed"
    (photos / "shoes" / "3.jpg").write_bytes(picture(33))
    again = over(akin, post(akin, "/v1/imports/source", location=str(photos / "shoes")))
    assert (again["unchanged"], again["indexed"]) == (4, 1)
    assert pictures_of(akin, "3") == [sha256(picture(33))]


def test_addresses_are_fetched_and_failures_have_their_reasons(akin: Akin, shop: Shop) -> None:
    shop.files = {"/one.jpg": picture(1), "/page.html": b"<html>"}
    wanted = [{"image": f"{shop.url}{path}"} for path in ("/one.jpg", "/page.html", "/none.jpg")]
    wanted += [{"image": "http://169.254.169.254/latest/meta-data", "item_id": "metadata"}]

    job = over(akin, post(akin, "/v1/imports/urls", pictures=wanted))

    assert job["indexed"] == 1
    assert job["failed_by_code"] == {"fetch_failed": 1, "fetch_refused": 1, "image_unrecognised": 1}
    assert item_ids(akin) == {"127.0.0.1/one"}


@pytest.mark.parametrize("address", ["http://[broken/a.jpg", "http:///a.jpg", "ftp://x/a.jpg", "http://"])
def test_what_is_no_web_address_is_refused(akin: Akin, address: str) -> None:
    assert akin.call("POST", "/v1/imports/urls", json={"pictures": [{"image": address}]}).status_code == 422


def test_a_server_that_fails_for_a_while_is_asked_again(akin: Akin, shop: Shop) -> None:
    shop.files = {"/one.jpg": picture(1)}
    shop.failing = {"/one.jpg"}
    job = post(akin, "/v1/imports/urls", pictures=[{"image": f"{shop.url}/one.jpg"}])
    waiting = over(akin, job)
    assert (waiting["state"], waiting["pending"]) == ("running", 1)

    shop.failing = set()
    let_pause_end(akin)

    assert over(akin, job)["indexed"] == 1
    assert [status for _, status in shop.asked] == [503, 200]


def test_a_server_that_goes_on_failing_is_given_up(akin: Akin, shop: Shop) -> None:
    shop.failing = {"/one.jpg"}
    job = post(akin, "/v1/imports/urls", pictures=[{"image": f"{shop.url}/one.jpg"}])
    for _ in range(accepting.FETCH_ATTEMPTS):
        ended = over(akin, job)
        let_pause_end(akin)

    assert ended["state"] == "finished_with_errors" and ended["failed_by_code"] == {"fetch_failed": 1}
    assert len(shop.asked) == accepting.FETCH_ATTEMPTS


def let_pause_end(akin: Akin) -> None:
    with akin.services.database.transaction() as session:
        session.execute(update(JobEntry).where(JobEntry.state == EntryState.PENDING).values(due_at=now()))


def test_a_manifest_elsewhere_is_fetched_first(akin: Akin, shop: Shop) -> None:
    shop.files = {
        "/list.csv": f"item_id,image\nz,{shop.url}/z.jpg\n".encode(),
        "/z.jpg": picture(1),
        "/all.zip": zipped({"q.jpg": picture(2)}),
    }

    listed = over(akin, post(akin, "/v1/imports/source", url=f"{shop.url}/list.csv"))
    archive = over(akin, post(akin, "/v1/imports/source", url=f"{shop.url}/all.zip"))
    absent = over(akin, post(akin, "/v1/imports/source", url=f"{shop.url}/none.csv"))

    assert (listed["indexed"], archive["indexed"]) == (1, 1)
    assert absent["state"] == "failed" and absent["error"]["code"] == "fetch_failed"
    assert item_ids(akin) == {"z", "q"}


def test_a_source_that_is_away_is_waited_for_and_then_given_up(
    akin: Akin, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.files = {"/list.csv": f"item_id,image\nz,{shop.url}/z.jpg\n".encode(), "/z.jpg": picture(1)}
    shop.failing = {"/list.csv"}
    patient = post(akin, "/v1/imports/source", url=f"{shop.url}/list.csv")
    with pytest.raises(Unavailable):
        accepting.take_turn(akin.services)
    waiting = akin.get(patient["links"]["self"])
    assert waiting["state"] == "queued" and "source_away_since" in waiting["result"]

    shop.failing = set()
    assert over(akin, patient)["state"] == "finished"

    shop.failing = {"/list.csv"}
    given_up = post(akin, "/v1/imports/source", url=f"{shop.url}/list.csv")
    monkeypatch.setattr(listing, "PATIENCE", -listing.PATIENCE)
    ended = over(akin, given_up)
    assert ended["state"] == "failed" and ended["error"]["code"] == "source_unavailable"


def test_a_file_that_takes_too_long_to_arrive_holds_the_worker_once(
    akin: Akin, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FETCHED_SECONDS", 0.4)
    shop.files, shop.dribbling = {"/list.csv": b"item_id\n" + b"a\n" * 500}, {"/list.csv"}

    job = over(akin, post(akin, "/v1/imports/source", url=f"{shop.url}/list.csv"))

    assert (job["state"], job["error"]["code"]) == ("failed", "fetch_failed")
    assert shop.asked == [("/list.csv", 200)]


def test_pictures_of_a_slow_server_wait_for_their_turn_and_do_not_fail(akin: Akin, shop: Shop) -> None:
    shop.files = {f"/{seed}.jpg": picture(seed) for seed in range(6)}
    shop.think = lambda: time.sleep(0.4)
    limits = Limits(seconds=1.2, waiting=0.6, per_host=1)
    akin.services.__dict__["fetcher"] = Fetcher(Guard(["127.0.0.1"]), limits)

    job = over(akin, post(akin, "/v1/imports/urls", pictures=[{"image": f"{shop.url}{path}"} for path in shop.files]))

    assert (job["state"], job["indexed"]) == ("finished", 6)
    assert sorted(path for path, _ in shop.asked) == sorted(shop.files), "each was asked for once"


def test_pictures_of_a_server_that_never_answers_are_given_up_together(akin: Akin, shop: Shop) -> None:
    ended = threading.Event()
    shop.think = lambda: ended.wait(30)
    akin.services.__dict__["fetcher"] = Fetcher(Guard(["127.0.0.1"]), Limits(seconds=1.0, waiting=0.3, per_host=1))
    job = post(akin, "/v1/imports/urls", pictures=[{"image": f"{shop.url}/{seed}.jpg"} for seed in range(4)])

    accepting.take_turn(akin.services)
    ended.set()

    with akin.services.database.reading() as session:
        attempts = session.scalars(select(JobEntry.attempts).where(JobEntry.job_id == job["id"])).all()
    assert attempts == [1, 1, 1, 1]


def test_names_that_no_database_holds_cost_their_own_lines_only(either_akin: Akin) -> None:
    body = b'{"item_id": "a", "x\\ud800": 1}\n{"item_id": "b", "y\\u0000": 1}\n{"item_id": "c"}\n'

    job = over(either_akin, send(either_akin, "/v1/imports/manifest", body, "application/x-ndjson"))

    assert (job["state"], job["unchanged"]) == ("finished_with_errors", 1)
    assert job["failed_by_code"] == {"entry_invalid": 2}


def test_whatever_a_source_says_can_be_kept(either_akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    unheld = Reference("a\0\ud800.jpg", ItemFields("a"), problem=Problem("entry_invalid", "b\0\ud800"))
    monkeypatch.setattr(Manifest, "steps", lambda *_: iter([(unheld, {"offset": 1})]))

    job = over(either_akin, send(either_akin, "/v1/imports/manifest", b"{}", "application/x-ndjson"))

    assert job["errors"] == [{"ref": "a?.jpg", "code": "entry_invalid", "detail": "b?"}]


def test_an_import_whose_source_fails_its_worker_again_and_again_fails_with_the_reason(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("nobody expects this")

    body = b'{"item_id": "a"}'
    passing = send(akin, "/v1/imports/manifest", body, "application/x-ndjson")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Manifest, "steps", fail)
        accepting.take_turn(akin.services)
    assert over(akin, passing)["state"] == "finished"

    job = send(akin, "/v1/imports/manifest", body, "application/x-ndjson")
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "steps", fail)
        for _ in range(listing.FAULTS - 1):
            with pytest.raises(RuntimeError):
                accepting.take_turn(akin.services)
        ended = over(akin, job)

    assert (ended["state"], ended["error"]["code"]) == ("failed", "source_fault")
    assert "source_faults" not in akin.get(passing["links"]["self"])["result"]


def test_an_entry_that_fails_its_worker_again_and_again_costs_no_other(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = akin.services.decoder.inspect_many

    def fail(pictures: list[bytes]) -> Any:
        if picture(3) in pictures:
            raise RuntimeError("nobody expects this")
        return inspect(pictures)

    monkeypatch.setattr(akin.services.decoder, "inspect_many", fail)
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(8)})

    first = over(akin, job)
    for _ in range(accepting.FETCH_ATTEMPTS - 1):
        let_pause_end(akin)
        ended = over(akin, job)

    assert (first["indexed"], first["pending"]) == (7, 1)
    assert (ended["state"], ended["failed_by_code"]) == ("finished_with_errors", {"entry_fault": 1})
    assert [error["ref"] for error in ended["errors"]] == ["3.jpg"]


def test_a_single_upload_is_embedded_before_an_import_that_came_first(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin.services.settings.__dict__["embed_batch"] = 8
    akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(40)})
    accepting.accept_pending(akin.services)
    akin.upload(picture(99), "fresh")

    batch = embedding.prepare(akin.services)
    assert batch is not None and akin.write(batch) == 8

    with akin.services.database.reading() as session:
        fresh = session.scalar(
            select(Embedding.state)
            .join(Image, Image.id == Embedding.image_id)
            .where(Image.sha256 == sha256(picture(99)))
        )
    assert fresh == EmbeddingState.INDEXED


def test_the_first_pictures_of_an_import_are_not_held_up_by_a_large_piece(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "FIRST_ENTRIES", 2)
    monkeypatch.setattr(accepting, "ENTRIES_AT_ONCE", 5)
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(8)})

    accepted = []
    for _ in range(3):
        accepting.take_turn(akin.services)
        accepted.append(_accepted(akin)[job["id"]])

    assert accepted == [2, 7, 8]


def test_imports_and_catalogs_take_turns(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "ENTRIES_AT_ONCE", 2)
    akin.call("POST", "/v1/catalogs", json={"name": "other"})
    jobs = {}
    for name, catalog, seeds in (("a", "default", range(8)), ("b", "default", range(10, 14)), ("c", "other", range(4))):
        form = {"files": [(io.BytesIO(picture(seed)), f"{seed}.jpg") for seed in seeds]}
        jobs[name] = akin.call("POST", f"/v1/imports?catalog={catalog}", data=form).json["id"]
    turns = []
    for _ in range(6):
        before = _accepted(akin)
        accepting.take_turn(akin.services)
        turns += [name for name, job in jobs.items() if _accepted(akin).get(job, 0) > before.get(job, 0)]

    assert turns.count("c") == 2, "the other catalog is through before the larger import of the first"
    assert turns[:4].count("c") == 2
    assert turns.count("a") == 2 and turns.count("b") == 2


def _accepted(akin: Akin) -> dict[str, int]:
    with akin.services.database.reading() as session:
        return dict(
            session.execute(
                select(JobEntry.job_id, func.count())
                .where(JobEntry.state == EntryState.ACCEPTED)
                .group_by(JobEntry.job_id)
            ).all()
        )


def single(akin: Akin, seed: int) -> Any:
    form = {"image": (io.BytesIO(picture(seed)), "x.jpg"), "item_id": f"single-{seed}"}
    return akin.call("POST", "/v1/images", data=form)


def imports_of(akin: Akin, seed: int) -> list[Any]:
    archive = zipped({"x.jpg": picture(seed)})
    return [
        akin.call("POST", "/v1/imports", data={"files": [(io.BytesIO(picture(seed)), "x.jpg")]}),
        akin.call("POST", "/v1/imports/archive", data=archive, content_type="application/zip"),
    ]


def test_a_full_backlog_is_answered_with_429_and_when_to_come_back(akin: Akin) -> None:
    akin.services.settings.__dict__["max_backlog"] = 5
    for seed in range(5):
        assert single(akin, seed).status_code == 202

    refused = [single(akin, 9), *imports_of(akin, 9)]
    assert {response.status_code for response in refused} == {429}
    assert {response.headers["Retry-After"] for response in refused} == {"10"}

    akin.work()
    assert single(akin, 9).status_code == 202


@pytest.mark.parametrize("accepted", [False, True])
def test_a_single_upload_is_not_refused_for_what_it_does_not_wait_for(akin: Akin, accepted: bool) -> None:
    akin.services.settings.__dict__["max_backlog"] = 5
    akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(5)})
    if accepted:
        accepting.accept_pending(akin.services)

    assert {response.status_code for response in imports_of(akin, 9)} == {429}
    assert single(akin, 9).status_code == 202


def test_a_single_upload_is_not_refused_while_a_lost_collection_is_embedded_anew(akin: Akin) -> None:
    akin.services.settings.__dict__["max_backlog"] = 5
    for seed in range(5):
        assert single(akin, seed).status_code == 202
    akin.work()
    with akin.services.database.reading() as session:
        akin.services.vectors.drop(catalogs.live_index(session, akin.catalog_id).collection)
    audit.start(akin.services, akin.catalog_id, repair=True)
    audit.advance(akin.services)

    assert single(akin, 9).status_code == 202


def test_an_import_does_not_fill_the_ledger_faster_than_it_is_emptied(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "LEDGER_AHEAD", 20)
    monkeypatch.setattr(accepting, "ENTRIES_AT_ONCE", 10)
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(50)})

    accepting.accept_pending(akin.services)
    held = akin.get(job["links"]["self"])
    for _ in range(3):
        akin.work()

    assert (held["accepted"], held["pending"]) == (20, 30)
    assert akin.get(job["links"]["self"])["indexed"] == 50


def test_a_poll_with_the_etag_of_the_last_answer_is_304_until_something_changes(akin: Akin) -> None:
    job = akin.upload_many({"a.jpg": picture(1)})
    first = akin.call("GET", job["links"]["self"])
    again = akin.call("GET", job["links"]["self"], headers={"If-None-Match": first.headers["ETag"]})
    akin.work()
    after = akin.call("GET", job["links"]["self"], headers={"If-None-Match": first.headers["ETag"]})

    assert (again.status_code, again.data) == (304, b"")
    assert (after.status_code, after.json["state"]) == (200, "finished")


def test_two_workers_at_once_look_at_no_entry_twice(akin: Akin, settings: Settings) -> None:
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(200)})
    looked: list[int] = []
    gather = gathering.gather

    def counting(services: Any, which: Any, claimed: Any) -> Any:
        looked.extend(entry.id for entry in claimed)
        return gather(services, which, claimed)

    workers = [build(settings) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accepting, "gather", counting)
        threads = [threading.Thread(target=accepting.accept_pending, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for worker in workers:
        worker.close()

    assert sorted(looked) == sorted(set(looked)) and len(looked) == 200
    assert over(akin, job)["indexed"] == 200


def test_a_source_is_listed_by_one_worker_at_a_time(
    akin: Akin, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LISTED_AT_ONCE", 5)
    job = send(
        akin, "/v1/imports/archive", tarred({f"{seed}.jpg": picture(seed) for seed in range(20)}), "application/gzip"
    )
    other = build(settings)
    seen: list[str] = []
    store = listing.content.store

    def storing(services: Any, data: bytes) -> str:
        seen.append(sha256(data))
        if len(seen) == 1:  # in the middle of the first worker's piece the second has its turn
            accepting.take_turn(other)
        return store(services, data)

    with monkeypatch.context() as patch:
        patch.setattr(listing.content, "store", storing)
        accepting.take_turn(akin.services)
    other.close()

    assert len(seen) == 5, "the second worker listed nothing"
    assert over(akin, job)["indexed"] == 20


def test_entries_in_the_hands_of_a_killed_worker_come_back(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(5)})

    def killed(*_: object) -> Any:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(accepting, "gather", killed)
        patch.setattr(accepting.entries, "release", lambda *_: None)
        with pytest.raises(SystemExit):
            accepting.take_turn(akin.services)
    assert over(akin, job)["pending"] == 5, "the lease runs"

    let_pause_end(akin)

    assert over(akin, job)["indexed"] == 5


def test_a_body_that_breaks_off_leaves_nothing_behind(akin: Akin) -> None:
    server = make_server("127.0.0.1", 0, akin.client.application, threaded=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    head = (
        "POST /v1/imports/archive HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\n"
        f"Authorization: Bearer {akin.key}\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(head.encode() + b"PK\x03\x04 the beginning")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
    server.shutdown()
    serving.join()

    assert b" 400 " in answer.splitlines()[0]
    assert list(akin.services.blobs.list("sources")) == []
    assert akin.get("/v1/jobs")["data"] == []


def test_an_archive_over_the_limit_is_refused_while_it_arrives(akin: Akin) -> None:
    akin.services.settings.__dict__["max_archive_bytes"] = 1000
    refused = akin.call("POST", "/v1/imports/archive", data=b"x" * 1001, content_type="application/zip")

    assert refused.status_code == 413
    assert list(akin.services.blobs.list("sources")) == []


def test_finishing_waits_until_the_whole_source_is_listed(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LISTED_AT_ONCE", 3)
    body = zipped({f"{seed}.jpg": picture(seed) for seed in range(7)})
    job = send(akin, "/v1/imports/archive", body, "application/zip")

    accepting.take_turn(akin.services)
    embedding.drain(akin.services)
    finishing.finish_imports(akin.services)
    begun = akin.get(job["links"]["self"])

    assert (begun["state"], begun["listed"], begun["indexed"]) == ("running", False, 3)
    assert over(akin, job)["state"] == "finished"
