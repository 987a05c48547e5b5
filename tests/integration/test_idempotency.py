"""Requests that are sent twice with one Idempotency-Key."""

from __future__ import annotations

import io
import threading
from datetime import timedelta
from typing import Any

import pytest
from flask import Response
from sqlalchemy import func, select, update
from werkzeug.test import TestResponse

from services import housekeeping, ingest
from services.api import idempotency
from services.catalog import answered
from services.catalog.database import now
from services.catalog.models import AnsweredRequest, Job, JobEntry, Key
from services.errors import Unavailable
from tests.integration.conftest import Akin, picture
from tests.servers import wait_until


def upload(
    akin: Akin, name: str | None, *, seed: int = 1, item_id: str = "shoe", key: str | None = None
) -> TestResponse:
    form = {"image": (io.BytesIO(picture(seed)), "shoe.jpg"), "item_id": item_id}
    return akin.call(
        "POST", "/v1/images", data=form, key=key, headers={} if name is None else {"Idempotency-Key": name}
    )


def count(akin: Akin, table: type[Any]) -> int:
    with akin.services.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def age(akin: Akin, by: timedelta) -> None:
    with akin.services.database.transaction() as session:
        session.execute(update(AnsweredRequest).values(created_at=now() - by))


def test_the_same_request_is_done_once_and_answered_alike(either_akin: Akin) -> None:
    first, again = upload(either_akin, "nightly-7"), upload(either_akin, "nightly-7")

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json == again.json
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert count(either_akin, Job) == 1


def test_without_a_key_or_with_another_it_is_another_request(akin: Akin) -> None:
    jobs = [upload(akin, name).json["links"]["job"] for name in ("a", "b", None, None)]

    assert len(set(jobs)) == 4


def test_a_key_sent_with_another_request_is_refused(akin: Akin) -> None:
    upload(akin, "a")

    for changed in ({"seed": 2}, {"item_id": "other"}):
        response = upload(akin, "a", **changed)  # type: ignore[arg-type]
        assert (response.status_code, response.json["code"]) == (422, "idempotency_key_reused")
    assert count(akin, Job) == 1


def test_keys_of_another_caller_are_others(akin: Akin) -> None:
    made = akin.call("POST", "/v1/admin/keys", json={"name": "other", "scopes": ["ingest"]})

    upload(akin, "a")

    assert "Idempotent-Replayed" not in upload(akin, "a", key=made.json["key"]).headers


def test_what_failed_may_be_sent_again(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the storage is away")

    with monkeypatch.context() as broken:
        broken.setattr(ingest, "accept", away)
        assert upload(akin, "a").status_code == 503

    response = upload(akin, "a")

    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers


def test_a_request_at_work_is_not_begun_twice(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    accept, begun, go_on = ingest.accept, threading.Event(), threading.Event()
    answers: list[TestResponse] = []

    def slow(*arguments: Any) -> Any:
        begun.set()
        go_on.wait(20)
        return accept(*arguments)

    monkeypatch.setattr(ingest, "accept", slow)
    thread = threading.Thread(target=lambda: answers.append(upload(akin, "a")))
    thread.start()
    assert begun.wait(20)

    meanwhile = upload(akin, "a")
    go_on.set()
    thread.join()

    assert (meanwhile.status_code, meanwhile.json["code"]) == (409, "idempotency_key_at_work")
    assert upload(akin, "a").json == answers[0].json


def test_a_request_that_was_cut_short_is_done_again_after_a_while(akin: Akin) -> None:
    with akin.services.database.transaction() as session:
        key_id = session.scalars(select(AnsweredRequest.key_id)).first() or 1
        answered.claim(session, key_id, "a", "f" * 64)
    age(akin, answered.AT_WORK + timedelta(seconds=1))

    with akin.services.database.transaction() as session:
        assert answered.claim(session, key_id, "a", "f" * 64) is None


@pytest.mark.parametrize("name", ["", "a" * 256, "ä\x07"])
def test_a_key_that_is_none_is_refused(akin: Akin, name: str) -> None:
    response = upload(akin, name)

    assert (response.status_code, response.json["code"]) == (422, "invalid_idempotency_key")


def test_secrets_are_not_kept(akin: Akin) -> None:
    for _ in range(2):
        made = akin.call(
            "POST",
            "/v1/admin/keys",
            json={"name": "shop", "scopes": ["search"]},
            headers={"Idempotency-Key": "a"},
        )
        assert made.status_code == 201

    assert count(akin, AnsweredRequest) == 0


def test_answers_are_forgotten_after_a_day(akin: Akin) -> None:
    upload(akin, "a")
    housekeeping.sweep(akin.services)
    assert count(akin, AnsweredRequest) == 1

    age(akin, answered.KEPT + timedelta(seconds=1))
    housekeeping.sweep(akin.services)

    assert count(akin, AnsweredRequest) == 0


def test_imports_are_forgotten_when_their_time_is_over_and_no_others(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    monkeypatch.setattr(housekeeping, "PIECE", 2)
    old = akin.upload_many({f"{seed}.jpg": picture(seed) for seed in range(5)})
    akin.work()
    recent, running = akin.upload_many({"a.jpg": picture(7)}), akin.upload_many({"b.jpg": picture(8)})
    with akin.services.database.transaction() as session:
        days = akin.services.settings.job_history_days
        session.execute(
            update(Job).where(Job.id == old["id"]).values(finished_at=now() - timedelta(days=days, hours=1))
        )

    housekeeping.sweep(akin.services)

    assert akin.call("GET", old["links"]["self"]).status_code == 404
    assert akin.get(recent["links"]["self"])["total"] == akin.get(running["links"]["self"])["total"] == 1
    assert count(akin, JobEntry) == 2
    assert akin.search(picture(0), limit=1)["hits"][0]["score"] >= 0.999  # what was imported stays


def test_a_request_that_takes_long_stays_at_work(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "RENEWED_SECONDS", 0.01)

    def slow() -> Response:
        with akin.services.database.transaction() as session:
            session.execute(update(AnsweredRequest).values(created_at=now() - 2 * answered.AT_WORK))
        wait_until(lambda: count_at_work(akin) == 1, "it says that it is at work", 10)
        return Response("{}", 202)

    with akin.services.database.reading() as session:
        key_id = session.scalars(select(Key.id)).first()
    assert key_id is not None
    assert idempotency.once(akin.services, key_id, "slow", "fingerprint", slow).status_code == 202


def count_at_work(akin: Akin) -> int:
    """Requests of which nobody would say that they were cut short."""
    with akin.services.database.reading() as session:
        recent = AnsweredRequest.created_at > now() - answered.AT_WORK
        return session.scalar(select(func.count()).select_from(AnsweredRequest).where(recent)) or 0
