"""Is the process up, and can the service work?"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from flask import Blueprint, Response, current_app, jsonify

from services.api.schemas import Health, Readiness
from services.bootstrap import pending_migration
from services.queue import alive_key
from services.wiring import Services

blueprint = Blueprint("health", __name__)

logger = logging.getLogger(__name__)

CONSUMERS = ("query", "embed", "imports", "maintenance")


class _NotReadyError(Exception):
    """A part answers but cannot work; the message may be shown to anybody."""


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers."""
    return jsonify(Health(status="ok").model_dump())


@blueprint.get("/readyz")
def readyz() -> Response:
    """Every part that the service needs answers; names those that do not."""
    services: Services = current_app.extensions["akin"]
    checks: dict[str, Callable[[], object]] = {
        "database": partial(_database, services),
        "redis": partial(_redis, services),
        "milvus": partial(_milvus, services),
        "storage": partial(_storage, services),
        **{part: partial(_consumed, services, part) for part in CONSUMERS},
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        parts = dict(zip(checks, pool.map(_state, checks.values()), strict=True))
    ready = all(state == "ok" for state in parts.values())
    response = jsonify(Readiness(ready=ready, parts=parts).model_dump())
    response.status_code = 200 if ready else 503
    return response


def _database(services: Services) -> None:
    services.database.check()
    if pending_migration(services.database):
        raise _NotReadyError("has not been migrated to this release")


def _redis(services: Services) -> None:
    services.redis.ping()


def _milvus(services: Services) -> None:
    services.vectors.check()


def _storage(services: Services) -> None:
    services.blobs.check()


def _consumed(services: Services, part: str) -> None:
    if not services.redis.exists(alive_key(part)):
        raise _NotReadyError("no process of this kind is at work")


def _state(check: Callable[[], object]) -> str:
    """Anybody may ask, so the reason is for the log: drivers name addresses and users."""
    try:
        check()
    except _NotReadyError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, the part is not ready
        logger.warning("not ready: %s", error.__cause__ or error)
        return "does not answer"
    return "ok"
