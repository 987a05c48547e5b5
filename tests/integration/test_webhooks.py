"""Webhooks: signed, told once a job is over, tried again, and sent nowhere that is not public."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import update

from services import webhooks
from services.catalog.database import now
from services.catalog.models import Webhook
from services.config import Settings
from tests.integration.conftest import Akin, picture


class Receiver:
    """A server that is told things; answers with the next of `statuses`, then with 204."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.told.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"fetch_allow": "127.0.0.1"})


def start(akin: Akin, url: str, data: bytes = b"") -> Any:
    form = {"files": [(io.BytesIO(data or picture(1)), "a.jpg")], "webhook": url}
    response = akin.call("POST", "/v1/imports", data=form)
    assert response.status_code == 202, response.text
    return response.json


def webhook(akin: Akin, job: Any) -> Any:
    return akin.get(job["links"]["self"])["webhook"]


def make_due(akin: Akin) -> None:
    with akin.services.database.transaction() as session:
        session.execute(update(Webhook).where(Webhook.due_at.is_not(None)).values(due_at=now()))


def test_a_job_that_is_over_is_told_of_once_with_a_signature_that_holds(either_akin: Akin, receiver: Receiver) -> None:
    akin = either_akin
    akin.services.settings.__dict__["fetch_allow"] = "127.0.0.1"
    job = start(akin, receiver.url)
    webhooks.deliver(akin.services)
    assert receiver.told == [], "the job is not over yet"

    akin.work()
    webhooks.deliver(akin.services)
    webhooks.deliver(akin.services)

    ((headers, body),) = receiver.told
    said = json.loads(body)
    assert said["type"] == "job.over"
    assert said["data"]["id"] == job["id"] and said["data"]["catalog"] == "default"
    assert (said["data"]["state"], said["data"]["indexed"], said["data"]["failed"]) == ("finished", 1, 0)
    # As the Standard Webhooks specification says how to check it.
    key = base64.b64decode(akin.get("/v1/webhooks/secret")["secret"].removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert webhook(akin, job)["delivered_at"] is not None


def test_a_receiver_that_fails_is_told_again_later(akin: Akin, receiver: Receiver) -> None:
    receiver.statuses = [500, 503]
    job = start(akin, receiver.url)
    akin.work()

    webhooks.deliver(akin.services)
    webhooks.deliver(akin.services)
    assert len(receiver.told) == 1, "not before the pause is over"
    assert webhook(akin, job) == {
        "url": receiver.url, "attempts": 1, "delivered_at": None, "error": "status 500",
    }  # fmt: skip
    for _ in range(2):
        make_due(akin)
        webhooks.deliver(akin.services)

    assert len(receiver.told) == 3
    assert webhook(akin, job)["delivered_at"] is not None and webhook(akin, job)["error"] is None
    identities = {headers["webhook-id"] for headers, _ in receiver.told}
    assert identities == {job["id"]}, "who is told twice can tell by the id"


def test_a_receiver_that_goes_on_failing_is_given_up(akin: Akin, receiver: Receiver) -> None:
    receiver.statuses = [500] * 20
    start(akin, receiver.url)
    akin.work()
    for _ in range(12):
        webhooks.deliver(akin.services)
        make_due(akin)

    assert len(receiver.told) == len(webhooks.PAUSES) + 1


def test_one_that_is_gone_is_not_told_again(akin: Akin, receiver: Receiver) -> None:
    receiver.statuses = [410]
    start(akin, receiver.url)
    akin.work()
    webhooks.deliver(akin.services)
    make_due(akin)
    webhooks.deliver(akin.services)

    assert len(receiver.told) == 1


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://[::1]:1/", "http://10.0.0.1/hook"])
def test_an_address_that_is_not_public_is_never_told(akin: Akin, url: str) -> None:
    job = start(akin, url)
    akin.work()
    webhooks.deliver(akin.services)

    found = webhook(akin, job)
    assert found["delivered_at"] is None and "not a public address" in found["error"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://x/", "", "http:/x"])
def test_what_is_no_web_address_is_refused_at_once(akin: Akin, url: str) -> None:
    form = {"files": [(io.BytesIO(picture(1)), "a.jpg")], "webhook": url}

    assert akin.call("POST", "/v1/imports", data=form).status_code == 422


def test_a_job_that_is_retried_is_told_of_again(akin: Akin, receiver: Receiver) -> None:
    job = start(akin, receiver.url, b"no picture")
    akin.work()
    webhooks.deliver(akin.services)
    assert akin.call("POST", f"{job['links']['self']}/retry").status_code == 200
    akin.work()
    webhooks.deliver(akin.services)

    assert [json.loads(body)["data"]["state"] for _, body in receiver.told] == ["finished_with_errors"] * 2
