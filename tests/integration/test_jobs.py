"""Jobs that people stop, and that they give another try."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import Any

import pytest
from sqlalchemy import update

from services import accepting, content
from services.api import snapshots
from services.api.app import create_app
from services.catalog import catalogs
from services.catalog import jobs as job_rows
from services.catalog.database import now
from services.catalog.models import Embedding, JobEntry, OrphanBlob
from services.catalog.states import EmbeddingState, EntryState
from services.storage.blobs import key_of
from tests.integration.conftest import Akin, picture


def cancel(akin: Akin, job: Any) -> None:
    response = akin.call("POST", f"{job['links']['self']}/cancel")
    assert response.status_code == 200, response.text
    assert response.json["state"] == "cancelled"


def retry(akin: Akin, job: Any) -> Any:
    response = akin.call("POST", f"{job['links']['self']}/retry")
    assert response.status_code == 200, response.text
    return response.json


def adds_up(job: dict[str, int]) -> bool:
    states = ("pending", "accepted", "indexed", "unchanged", "failed", "cancelled")
    return job["total"] == sum(job[state] for state in states)


def let_grace_end(akin: Akin) -> None:
    with akin.services.database.transaction() as session:
        session.execute(update(OrphanBlob).values(since=now() - 2 * content.GRACE))


def test_a_cancelled_import_accepts_nothing_more_and_keeps_what_it_has(
    either_akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    monkeypatch.setattr(accepting, "ENTRIES_AT_ONCE", 10)
    monkeypatch.setattr(accepting, "LEFT_OUT_AT_ONCE", 7)
    job = akin.upload_many(pictures)
    assert accepting.take_turn(akin.services)

    cancel(akin, job)
    at_once = akin.get(job["links"]["self"])
    cancel(akin, job)  # changes nothing
    akin.work()
    afterwards = akin.get(job["links"]["self"])

    assert (at_once["accepted"], at_once["cancelled"], at_once["pending"]) == (10, 20, 0)
    assert (afterwards["indexed"], afterwards["cancelled"], afterwards["failed"]) == (10, 20, 0)
    assert adds_up(at_once) and adds_up(afterwards)
    assert afterwards["state"] == "cancelled" and afterwards["done"] == 30
    with akin.services.database.reading() as session:  # a cancelled job waits for no search to see its pictures
        akin.services.vectors.barrier(catalogs.live_index(session, akin.catalog_id).collection)
    found = [akin.search(data, limit=1)["hits"][0]["score"] >= 0.999 for data in pictures.values()]
    assert found.count(True) == 10


def test_another_api_process_knows_at_once_that_a_job_was_cancelled(
    akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_LASTS", 60.0)  # an answer is kept for as long as of a job of millions
    other, headers = create_app(akin.services).test_client(), {"Authorization": f"Bearer {akin.key}"}
    job = akin.upload_many(pictures)
    link = job["links"]["self"]
    assert other.get(link, headers=headers).json["state"] == "queued"

    cancel(akin, job)

    assert other.get(link, headers=headers).json["state"] == "cancelled"
    assert [one["state"] for one in other.get("/v1/jobs", headers=headers).json["data"]] == ["cancelled"]


def test_viewers_of_a_job_share_its_counting(
    akin: Akin, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_LASTS", 60.0)
    monkeypatch.setattr(accepting, "ENTRIES_AT_ONCE", 10)
    link = akin.upload_many(pictures)["links"]["self"]
    assert accepting.take_turn(akin.services)
    first = akin.get(link)
    assert accepting.take_turn(akin.services)

    assert first["state"] == "running" and first["accepted"] == 10
    assert akin.get(link)["accepted"] == 10
    akin.work()
    assert akin.get(link)["indexed"] == 30


def test_bytes_that_a_cancelled_import_left_out_are_collected(akin: Akin) -> None:
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(3)})
    kept = akin.upload(picture(0), "kept")

    cancel(akin, job)
    akin.work()
    let_grace_end(akin)

    assert content.collect_orphans(akin.services) == 2
    assert akin.call("GET", f"{kept['links']['self']}/content").status_code == 200


def take_turn_while_cancelled(akin: Akin, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a worker look at an import's pictures, which is cancelled when it has begun to."""
    inspect = akin.services.decoder.inspect_many

    def cancelling(headers: list[bytes]) -> object:
        cancel(akin, job)
        return inspect(headers)

    monkeypatch.setattr(akin.services.decoder, "inspect_many", cancelling)
    assert accepting.take_turn(akin.services)
    monkeypatch.undo()


def test_an_import_cancelled_while_a_worker_looks_at_its_pictures_accepts_none_of_them(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    job = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(3)})
    take_turn_while_cancelled(akin, job, monkeypatch)
    akin.work()

    assert akin.get(job["links"]["self"])["cancelled"] == 3
    assert akin.get("/v1/items")["data"] == []


def test_bytes_of_an_import_cancelled_while_a_worker_looks_at_them_are_collected(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing refers to them, and neither to those that were to be collected before."""
    akin = either_akin
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for seed in range(3):
            file.writestr(f"{seed}.jpg", picture(seed))
    job = akin.call("POST", "/v1/imports/archive", data=archive.getvalue(), content_type="application/zip").json
    with akin.services.database.transaction() as session:
        session.add(OrphanBlob(sha256=hashlib.sha256(picture(0)).hexdigest()))
    take_turn_while_cancelled(akin, job, monkeypatch)
    akin.work()
    stored = [key_of(hashlib.sha256(picture(seed)).hexdigest()) for seed in range(3)]
    assert all(akin.services.blobs.exists(key) for key in stored)
    let_grace_end(akin)

    assert content.collect_orphans(akin.services) == 3
    assert not any(akin.services.blobs.exists(key) for key in stored)


def test_a_cancelled_import_does_not_hold_up_the_next(akin: Akin) -> None:
    first = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(3)})
    second = akin.upload_many({"later.jpg": picture(9)})

    cancel(akin, first)
    akin.work()

    assert akin.get(second["links"]["self"])["state"] == "finished"


def test_a_job_that_is_over_cannot_be_cancelled(akin: Akin) -> None:
    job = akin.upload_many({"a.jpg": picture(1)})
    akin.work()

    response = akin.call("POST", f"{job['links']['self']}/cancel")

    assert (response.status_code, response.json["code"]) == (409, "job_over")
    assert akin.get(job["links"]["self"])["state"] == "finished"


def test_a_retry_takes_up_what_failed_and_nothing_else(either_akin: Akin, pictures: dict[str, bytes]) -> None:
    """Two kinds of failure: bytes that were away when they were looked at, and an encoding that failed."""
    akin = either_akin
    names = list(pictures)
    job = akin.upload_many({**pictures, "broken.jpg": b"no picture"})
    lost = hashlib.sha256(pictures[names[0]]).hexdigest()
    akin.services.blobs.delete(key_of(lost))
    akin.work()
    with akin.services.database.transaction() as session:
        one = akin.get("/v1/items")["data"][5]
        image = akin.get(f"/v1/items/{one['item_id'].replace('/', '%2F')}")["images"][0]["id"]
        session.execute(
            update(Embedding)
            .where(Embedding.image_id == image)
            .values(state=EmbeddingState.FAILED, error_code="encoder", error_detail="the GPU was away")
        )
        job_rows.reopen(session, job_rows.get(session, job["id"]))
        session.execute(update(JobEntry).where(JobEntry.image_id == image).values(state=EntryState.ACCEPTED))
    akin.work()
    before = akin.get(job["links"]["self"])
    assert before["failed_by_code"] == {"encoder": 1, "image_bytes_missing": 1, "image_unrecognised": 1}
    akin.services.blobs.put(key_of(lost), pictures[names[0]])

    again = retry(akin, job)
    akin.work()
    after = akin.get(job["links"]["self"])

    assert again["state"] == "running" and again["failed"] == 0
    assert after["state"] == "finished_with_errors"
    assert (after["indexed"], after["failed"], after["total"]) == (30, 1, 31)
    assert after["failed_by_code"] == {"image_unrecognised": 1}
    assert adds_up(before) and adds_up(after)
    assert all(akin.search(data, limit=1)["hits"][0]["score"] >= 0.999 for data in pictures.values())


def test_a_retry_brings_back_no_deleted_picture(akin: Akin) -> None:
    job = akin.upload_many({"a.jpg": picture(1), "b.txt": b"none"})
    accepting.accept_pending(akin.services)
    assert akin.call("DELETE", "/v1/items/a").status_code == 204
    akin.work()
    assert akin.get(job["links"]["self"])["failed_by_code"] == {"image_deleted": 1, "image_unrecognised": 1}

    retry(akin, job)
    akin.work()

    assert akin.get(job["links"]["self"])["failed"] == 2
    assert akin.get("/v1/items")["data"] == []


def test_bytes_of_an_entry_that_is_retried_are_not_collected(akin: Akin) -> None:
    job = akin.upload_many({"a.jpg": b"no picture"})
    akin.work()
    let_grace_end(akin)

    retry(akin, job)

    assert content.collect_orphans(akin.services) == 0


def test_a_retry_of_a_job_without_failures_changes_nothing(akin: Akin) -> None:
    job = akin.upload_many({"a.jpg": picture(1)})
    akin.work()

    assert retry(akin, job)["state"] == "finished"


@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_jobs_of_others_are_not_found_and_running_ones_not_retried(akin: Akin, action: str) -> None:
    assert akin.call("POST", f"/v1/jobs/none/{action}").status_code == 404
    job = akin.upload_many({"a.jpg": picture(1)})
    if action == "retry":
        response = akin.call("POST", f"{job['links']['self']}/retry")
        assert (response.status_code, response.json["code"]) == (409, "job_running")
    else:
        cancel(akin, job)
        response = akin.call("POST", f"{job['links']['self']}/retry")
        assert (response.status_code, response.json["code"]) == (409, "job_over")
