"""Telling other services that a job is over: one signed POST, tried again until it is taken.

The headers and the signature are those of the Standard Webhooks specification, which most languages have a library
for. The secret is one of the catalog: derived from the installation's key, so it is stored nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select

from services.catalog import entries, jobs
from services.catalog.database import now
from services.catalog.models import Catalog, Job, Webhook
from services.errors import FetchFailed, FetchRefused
from services.secret_key import secret_key
from services.wiring import Services

logger = logging.getLogger(__name__)

AT_ONCE = 20
# Pauses before the second and every further try; after the last the webhook is given up.
PAUSES = [timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 3_600, 6 * 3_600, 24 * 3_600)]
GONE = 410


@dataclass(frozen=True)
class _Message:
    job_id: str
    due_at: datetime
    url: str
    body: bytes
    secret: str


def secret_of(services: Services, catalog_id: int) -> str:
    """What the receivers of a catalog's webhooks check signatures with."""
    digest = hmac.digest(secret_key(services.settings).encode(), f"webhooks of catalog {catalog_id}".encode(), "sha256")
    return "whsec_" + base64.b64encode(digest).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of a message."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def deliver(services: Services) -> None:
    """Send the next of what is due for jobs that are over, all at the same time."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
        answers = list(pool.map(lambda message: (message, *_send(services, message)), _due(services)))
    for message, error, final in answers:
        with services.database.transaction() as session:
            webhook = session.get(Webhook, message.job_id, with_for_update=True)
            if webhook is None or webhook.due_at != message.due_at:
                continue  # the job was retried meanwhile: it will end again
            webhook.attempts += 1
            webhook.error = error
            if error is None:
                webhook.delivered_at, webhook.due_at = now(), None
            elif final or webhook.attempts > len(PAUSES):
                webhook.due_at = None
                logger.warning("webhook of job %s given up: %s", message.job_id, error)
            else:
                webhook.due_at = now() + PAUSES[webhook.attempts - 1]


def _due(services: Services) -> list[_Message]:
    with services.database.reading() as session:
        found = session.execute(
            select(Webhook, Job, Catalog.name)
            .join(Job, Job.id == Webhook.job_id)
            .join(Catalog, Catalog.id == Job.catalog_id)
            .where(Webhook.due_at <= now(), Job.finished_at.is_not(None))
            .order_by(Webhook.due_at)
            .limit(AT_ONCE)
        ).all()
        messages = []
        for webhook, job, catalog in found:
            assert job.finished_at is not None and webhook.due_at is not None
            counts = {state.value: count for state, count in entries.counts(session, job.id).items()}
            body = {
                "type": "job.over",
                "timestamp": job.finished_at.isoformat(),
                "data": {
                    "id": job.id,
                    "catalog": catalog,
                    "kind": job.kind,
                    "state": job.state,
                    "total": job.total,
                    **(counts if job.kind == jobs.IMPORT else {}),
                    "result": job.result,
                },
            }
            data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
            messages.append(_Message(job.id, webhook.due_at, webhook.url, data, secret_of(services, job.catalog_id)))
    return messages


def _send(services: Services, message: _Message) -> tuple[str | None, bool]:
    """What was wrong, None where nothing was, and whether another try is in vain."""
    moment = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message.job_id,
        "webhook-timestamp": str(moment),
        "webhook-signature": signature(message.secret, message.job_id, moment, message.body),
    }
    try:
        status = services.fetcher.post(message.url, message.body, headers)
    except FetchRefused as error:
        return error.detail, True
    except FetchFailed as error:
        return error.detail, False
    return (None, False) if 200 <= status < 300 else (f"status {status}", status == GONE)
