"""The main job through its real parts: a picture in, embedded, found; deleted, gone; reindexed, found again."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select, update

from services import accepting, content, embedding, pace, purging, reindex
from services.catalog import catalogs, indexes, jobs, ledger
from services.catalog.database import now
from services.catalog.models import Embedding, Image, IndexRow, OrphanBlob
from services.catalog.states import EmbeddingState, IndexState
from services.errors import ImageReason, ImageRejected, NotFound, Unavailable
from services.storage.blobs import key_of
from tests.integration.conftest import Akin, picture


def live(akin: Akin) -> IndexRow:
    with akin.services.database.reading() as session:
        return catalogs.live_index(session, akin.catalog_id)


def vectors_in(akin: Akin, index: IndexRow) -> int:
    return akin.services.vectors.count(index.collection, strong=True)


def let_leases_end(akin: Akin) -> None:
    with akin.services.database.transaction() as session:
        session.execute(update(Embedding).values(lease_until=now() - timedelta(hours=1)))


def test_an_uploaded_picture_finds_itself_first(either_akin: Akin) -> None:
    akin = either_akin
    accepted = akin.upload(picture(1), "shoe-1", title="Red shoe", attributes='{"price": 30}')
    akin.upload(picture(2), "shoe-2")

    akin.work()

    assert akin.get(accepted["links"]["job"])["state"] == "finished"
    assert akin.get(accepted["links"]["self"])["state"] == "indexed"
    best, *_ = akin.search(picture(1))["hits"]
    assert best["rank"] == 1
    assert best["score"] >= 0.999
    assert best["image"]["id"] == accepted["image_id"]
    assert best["item"]["title"] == "Red shoe"
    assert best["item"]["attributes"] == {"price": 30}


def test_an_import_ends_with_every_file_indexed_or_listed(either_akin: Akin, pictures: dict[str, bytes]) -> None:
    akin = either_akin
    broken = {"empty.jpg": b"", "text.png": b"not a picture", "half.jpg": picture(77)[:600]}

    job = akin.upload_many({**pictures, **broken})
    akin.work()

    job = akin.get(job["links"]["self"])
    assert job["state"] == "finished_with_errors"
    assert (job["total"], job["indexed"], job["failed"]) == (33, 30, 3)
    assert job["pending"] == job["accepted"] == job["unchanged"] == 0
    listed = akin.get(job["links"]["errors"])["data"]
    assert {entry["ref"]: entry["code"] for entry in listed} == {
        "empty.jpg": "image_empty",
        "text.png": "image_unrecognised",
        "half.jpg": "image_broken",
    }
    for name, data in pictures.items():
        best = akin.search(data, limit=1)["hits"][0]
        assert best["score"] >= 0.999
        assert best["item"]["item_id"] == name.removesuffix(".jpg")


def test_the_same_bytes_for_the_same_item_are_one_image_and_done_once(akin: Akin) -> None:
    first = akin.upload(picture(1), "shoe-1")
    akin.work()

    again = akin.upload(picture(1), "shoe-1")
    job = akin.upload_many({"shoe-1.jpg": picture(1)})
    akin.work()

    assert again["image_id"] == first["image_id"]
    assert not again["created"]
    assert akin.get(again["links"]["job"])["unchanged"] == 1
    assert akin.get(job["links"]["self"])["unchanged"] == 1
    assert vectors_in(akin, live(akin)) == 1


def test_similar_items_leave_out_the_item_itself(akin: Akin) -> None:
    akin.upload(picture(1), "a/1")
    akin.upload(picture(2), "a/1")
    akin.upload(picture(3), "b")
    akin.work()

    hits = akin.get("/v1/items/a%2F1/similar")["hits"]

    assert [hit["item"]["item_id"] for hit in hits] == ["b"]


def test_a_limit_is_filled_from_beyond_deleted_pictures(akin: Akin, pictures: dict[str, bytes]) -> None:
    akin.upload_many(pictures)
    akin.work()
    query = picture(1000)
    nearest = [hit["image"]["id"] for hit in akin.search(query, limit=30)["hits"]]
    for image_id in nearest[:10]:
        assert akin.call("DELETE", f"/v1/images/{image_id}").status_code == 204

    left = [hit["image"]["id"] for hit in akin.search(query, limit=5)["hits"]]

    assert left == nearest[10:15]


def test_a_deleted_picture_is_gone_at_once_and_everywhere_soon(either_akin: Akin) -> None:
    akin = either_akin
    keep, drop = akin.upload(picture(1), "keep"), akin.upload(picture(2), "drop")
    akin.work()
    with akin.services.database.reading() as session:
        sha256 = session.scalars(select(Image.sha256).where(Image.id == drop["image_id"])).one()

    assert akin.call("DELETE", "/v1/items/drop").status_code == 204

    assert [hit["image"]["id"] for hit in akin.search(picture(2))["hits"]] == [keep["image_id"]]
    assert akin.call("GET", "/v1/items/drop").status_code == 404
    assert purging.purge(akin.services) == 1
    assert vectors_in(akin, live(akin)) == 1
    with akin.services.database.transaction() as session:
        assert session.scalars(select(Image.id)).all() == [keep["image_id"]]
        session.execute(update(OrphanBlob).values(since=now() - 2 * content.GRACE))
    assert content.collect_orphans(akin.services) == 1
    with pytest.raises(NotFound):
        akin.services.blobs.get(key_of(sha256))


def test_bytes_uploaded_again_are_kept_from_collection(akin: Akin) -> None:
    akin.upload(picture(1), "first")
    akin.work()
    akin.call("DELETE", "/v1/items/first")
    purging.purge(akin.services)
    with akin.services.database.transaction() as session:
        session.execute(update(OrphanBlob).values(since=now() - 2 * content.GRACE))

    again = akin.upload(picture(1), "second")

    assert content.collect_orphans(akin.services) == 0
    akin.work()
    assert akin.get(again["links"]["self"])["state"] == "indexed"


def test_a_picture_deleted_while_it_is_embedded_leaves_no_vector(akin: Akin) -> None:
    kept, deleted = akin.upload(picture(1), "kept"), akin.upload(picture(2), "deleted")
    batch = embedding.prepare(akin.services)
    assert batch is not None
    akin.call("DELETE", f"/v1/images/{deleted['image_id']}")

    assert akin.write(batch) == 1

    present = akin.services.vectors.present(batch.collection, [kept["image_id"], deleted["image_id"]], strong=True)
    assert present == {kept["image_id"]}


def test_a_worker_that_dies_between_write_and_mark_leaves_no_vector_of_a_deleted_picture(akin: Akin) -> None:
    deleted = akin.upload(picture(2), "deleted")
    batch = embedding.prepare(akin.services)
    assert batch is not None
    index = live(akin)
    akin.services.vectors.create(index.collection, index.encoder.dimension)
    unit = np.eye(1, index.encoder.dimension, dtype=np.float32)
    akin.services.vectors.upsert(index.collection, [deleted["image_id"]], unit)  # and here it dies

    akin.call("DELETE", f"/v1/images/{deleted['image_id']}")
    assert purging.purge(akin.services) == 0  # the lease has not ended: the worker might still write
    let_leases_end(akin)
    assert purging.purge(akin.services) == 1

    assert akin.services.vectors.count(index.collection) == 0


def test_a_slow_worker_does_not_delete_what_the_next_one_wrote(akin: Akin) -> None:
    image = akin.upload(picture(1), "shoe")
    slow = embedding.prepare(akin.services)
    assert slow is not None
    let_leases_end(akin)
    assert embedding.drain(akin.services) == 1

    assert akin.write(slow) == 0

    assert akin.services.vectors.present(slow.collection, [image["image_id"]], strong=True) == {image["image_id"]}
    assert akin.get(image["links"]["self"])["state"] == "indexed"


@pytest.mark.parametrize(("seconds", "claimed"), [(None, 2), (6.0, 2), (1.0, 5), (30.0, 1)])
def test_no_more_pictures_are_claimed_than_are_encoded_long_before_the_lease_ends(
    akin: Akin, monkeypatch: pytest.MonkeyPatch, seconds: float | None, claimed: int
) -> None:
    monkeypatch.setattr(pace, "FIRST_BATCH", 2)
    known = {} if seconds is None else {live(akin).encoder.sha256: seconds}
    monkeypatch.setattr(pace, "_seconds", known)
    akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(5)})
    accepting.accept_pending(akin.services)

    batch = embedding.prepare(akin.services)

    assert batch is not None and len(batch.claims) == claimed
    assert akin.write(batch) == claimed
    assert 0 < pace._seconds[batch.encoder] < 30


def test_pictures_that_hang_hold_a_worker_no_longer_than_its_lease(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "DECODED_AT_ONCE", 2)
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(6)})
    accepting.accept_pending(akin.services)
    looked: list[int] = []

    def hanging(pictures: Sequence[bytes], _: object) -> list[ImageRejected]:
        looked.append(len(pictures))
        with akin.services.database.reading() as session:
            until = session.scalar(select(Embedding.lease_until).limit(1))
        monkeypatch.setattr(embedding, "now", lambda: until + timedelta(seconds=1))
        return [ImageRejected(ImageReason.TIMEOUT, "it took too long")] * len(pictures)

    with monkeypatch.context() as patch:
        patch.setattr(akin.services.decoder, "preprocess_many", hanging)
        batch = embedding.prepare(akin.services)
        assert batch is not None
        assert akin.write(batch) == 0
    monkeypatch.undo()

    assert looked == [2], "the others were not even begun"
    with akin.services.database.reading() as session:
        rows = session.execute(select(Embedding.state, Embedding.attempts).order_by(Embedding.id)).all()
    assert rows == [("pending", 1)] * 2 + [("pending", 0)] * 4
    akin.work()
    assert akin.get(job["links"]["self"])["indexed"] == 6


def test_rows_go_back_untouched_when_milvus_is_away(akin: Akin) -> None:
    akin.upload(picture(1), "shoe")
    away = akin.services.settings.model_copy(update={"milvus_uri": "http://127.0.0.1:9"})
    from services.wiring import build

    services = build(away)
    with pytest.raises(Unavailable):
        embedding.drain(services)
    services.close()

    with akin.services.database.reading() as session:
        row = session.scalars(select(Embedding)).one()
    assert (row.state, row.attempts) == (EmbeddingState.PENDING, 0)
    akin.work()
    assert akin.search(picture(1))["hits"][0]["score"] >= 0.999


def test_a_picture_whose_bytes_are_lost_is_listed_with_its_reason(akin: Akin) -> None:
    accepted = akin.upload(picture(1), "shoe")
    with akin.services.database.reading() as session:
        sha256 = session.scalars(select(Image.sha256)).one()
    akin.services.blobs.delete(key_of(sha256))

    akin.work()

    job = akin.get(accepted["links"]["job"])
    assert (job["state"], job["failed"]) == ("finished_with_errors", 1)
    assert job["errors"][0]["code"] == "image_bytes_missing"
    assert akin.get(accepted["links"]["self"])["state"] == "failed"


def test_a_reindex_goes_live_in_one_step_and_every_picture_finds_itself(
    either_akin: Akin, pictures: dict[str, bytes]
) -> None:
    akin = either_akin
    akin.upload_many(pictures)
    akin.work()
    before = live(akin)

    response = akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"})
    assert response.status_code == 202, response.text
    during = akin.upload(picture(500), "during")  # goes to both
    assert akin.search(picture(0))["encoder"] == before.encoder.ref
    akin.work()

    after = live(akin)
    assert after.encoder.name == "conv-ae-64"
    job = akin.get(response.json["links"]["job"])
    assert (job["state"], job["indexed"]) == ("finished", 31)
    assert akin.get(during["links"]["job"])["state"] == "finished"
    for name, data in [*pictures.items(), ("during.jpg", picture(500))]:
        best = akin.search(data, limit=1)
        assert best["encoder"] == after.encoder.ref
        assert best["hits"][0]["score"] >= 0.999
        assert best["hits"][0]["item"]["item_id"] == name.removesuffix(".jpg")
    assert vectors_in(akin, before) == vectors_in(akin, after) == 31


def test_uploads_after_a_switch_keep_the_standby_index_current(akin: Akin) -> None:
    akin.upload(picture(1), "one")
    akin.work()
    before = live(akin)
    akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"})
    akin.work()

    akin.upload(picture(2), "two")
    akin.work()

    with akin.services.database.reading() as session:
        standby = indexes.get(session, before.id)
    assert standby is not None
    assert standby.state == IndexState.STANDBY
    assert vectors_in(akin, before) == vectors_in(akin, live(akin)) == 2


def test_an_older_standby_is_dropped_with_its_collection(akin: Akin) -> None:
    akin.upload(picture(1), "one")
    akin.work()
    first = live(akin)
    for encoder in ("conv-ae-64", "conv-ae-200"):
        assert akin.call("POST", "/v1/admin/reindex", json={"encoder": encoder}).status_code == 202
        akin.work()

    reindex.drop_retired(akin.services)

    assert not akin.services.vectors.exists(first.collection)
    with akin.services.database.reading() as session:
        assert sum(ledger.counts(session, first.id).values()) == 0
    assert akin.search(picture(1))["hits"][0]["score"] >= 0.999


def test_an_index_is_not_made_live_while_an_upload_has_no_row_in_it(akin: Akin) -> None:
    akin.upload(picture(1), "one")
    akin.work()
    akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"})
    with akin.services.database.reading() as session:
        (building,) = indexes.in_states(session, [IndexState.BUILDING])

    assert not reindex.activate(akin.services, building.id)

    assert live(akin).id != building.id
    akin.work()
    assert live(akin).id == building.id


def test_a_reindex_that_loses_a_picture_changes_nothing_and_says_why(akin: Akin) -> None:
    kept, lost = akin.upload(picture(1), "kept"), akin.upload(picture(2), "lost")
    akin.work()
    before = live(akin)
    with akin.services.database.reading() as session:
        sha256 = session.scalars(select(Image.sha256).where(Image.id == lost["image_id"])).one()
    akin.services.blobs.delete(key_of(sha256))

    started = akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"}).json
    akin.work()

    job = akin.get(started["links"]["job"])
    assert job["state"] == "failed"
    assert job["error"]["code"] == "reindex_incomplete"
    assert live(akin).id == before.id
    assert akin.search(picture(1))["hits"][0]["image"]["id"] == kept["image_id"]


def test_one_reindex_at_a_time_and_not_to_the_same_encoder(akin: Akin) -> None:
    def start(encoder: str) -> tuple[int, str]:
        response = akin.call("POST", "/v1/admin/reindex", json={"encoder": encoder})
        return response.status_code, response.json.get("code", "")

    assert start("metric-photo") == (409, "reindex_same_encoder")
    assert start("unknown") == (404, "encoder_not_found")
    assert start("conv-ae-64")[0] == 202
    assert start("conv-ae-64") == (409, "reindex_running")


def test_a_failed_picture_that_is_uploaded_again_is_tried_again(akin: Akin) -> None:
    first = akin.upload(picture(1), "shoe")
    with akin.services.database.reading() as session:
        sha256 = session.scalars(select(Image.sha256)).one()
    akin.services.blobs.delete(key_of(sha256))
    akin.work()
    assert akin.get(first["links"]["self"])["state"] == "failed"

    again = akin.upload(picture(1), "shoe")
    akin.work()

    assert akin.get(again["links"]["job"])["state"] == "finished"
    assert akin.get(first["links"]["self"])["state"] == "indexed"


def test_an_encoder_that_cannot_be_loaded_fails_its_rows_and_stops_no_other_catalog(akin: Akin) -> None:
    assert akin.call("POST", "/v1/catalogs", json={"name": "other", "encoder": "conv-ae-64"}).status_code == 201
    broken = akin.upload(picture(1), "broken")
    body = {"image": base64.b64encode(picture(2)).decode(), "item_id": "sound"}
    sound = akin.call("POST", "/v1/images?catalog=other", json=body).json
    index = live(akin)
    # Damaged before this process loads it.
    akin.services.blobs.delete(f"encoders/{index.encoder.sha256}/weights.safetensors")
    akin.services.blobs.put(f"encoders/{index.encoder.sha256}/weights.safetensors", b"damaged")

    for _ in range(akin.services.settings.max_attempts):
        akin.work()

    job = akin.get(broken["links"]["job"])
    assert (job["state"], job["failed"]) == ("finished_with_errors", 1)
    assert job["errors"][0]["code"] == "encoder"
    assert akin.get(f"{sound['links']['job']}?catalog=other")["state"] == "finished"


def test_a_finished_import_stays_finished_when_a_second_worker_comes_late(akin: Akin) -> None:
    job_id = akin.upload_many({"a.jpg": b"broken"})["id"]
    akin.work()

    with akin.services.database.transaction() as session:
        jobs.start(jobs.get(session, job_id))

    assert akin.get(f"/v1/jobs/{job_id}")["state"] == "finished_with_errors"


def test_bytes_of_refused_files_are_collected(akin: Akin) -> None:
    akin.upload_many({"a.jpg": b"no picture"})
    akin.work()
    with akin.services.database.transaction() as session:
        session.execute(update(OrphanBlob).values(since=now() - 2 * content.GRACE))

    assert content.collect_orphans(akin.services) == 1


def test_an_item_with_many_pictures_is_searched_with_some_of_them(akin: Akin, pictures: dict[str, bytes]) -> None:
    akin.upload_many(pictures, manifest=json.dumps([{"item_id": "many"}] * len(pictures)))
    akin.upload(picture(900), "one")
    akin.work()

    assert [hit["item"]["item_id"] for hit in akin.get("/v1/items/many/similar?limit=5")["hits"]] == ["one"]
    body = {"query": [{"item_id": "one"}], "group": False, "limit": 200}
    assert len(akin.call("POST", "/v1/search", json=body).json["hits"]) == 30


def test_a_reindex_counts_uploads_that_come_meanwhile(akin: Akin) -> None:
    akin.upload(picture(1), "one")
    akin.work()
    started = akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"}).json
    for number in range(3):
        akin.upload(picture(10 + number), f"more-{number}")

    job = akin.get(started["links"]["job"])

    assert job["total"] >= 3
    assert job["total"] == job["pending"] + job["accepted"] + job["indexed"] + job["failed"]
    akin.work()
    job = akin.get(started["links"]["job"])
    assert (job["total"], job["indexed"], job["state"]) == (4, 4, "finished")


def test_a_reindex_lists_the_pictures_that_it_could_not_embed(akin: Akin) -> None:
    akin.upload(picture(1), "sound")
    lost = akin.upload(picture(2), "lost")
    with akin.services.database.reading() as session:
        sha256 = session.scalars(select(Image.sha256).where(Image.id == lost["image_id"])).one()
    akin.services.blobs.delete(key_of(sha256))
    akin.work()

    started = akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"}).json
    akin.work()

    job = akin.get(started["links"]["job"])
    assert (job["state"], job["indexed"], job["failed"]) == ("finished_with_errors", 1, 1)
    listed = akin.get(f"{started['links']['job']}/errors")["data"]
    assert listed == job["errors"]
    assert listed == [
        {
            "ref": f"image {lost['image_id']} of item lost",
            "code": "image_bytes_missing",
            "detail": "the stored bytes are gone",
        }
    ]
