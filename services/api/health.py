"""Is the process up, and can the service work?"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from flask import Blueprint, Response, current_app, jsonify

from services.api.schemas import Health, Readiness
from services.errors import AkinError, Unavailable
from services.queue import alive_key
from services.wiring import Services

blueprint = Blueprint("health", __name__)

CONSUMERS = ("query", "embed", "imports", "maintenance")


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers."""
    return jsonify(Health(status="ok").model_dump())


@blueprint.get("/readyz")
def readyz() -> Response:
    """Every part that the service needs answers; names those that do not."""
    services: Services = current_app.extensions["akin"]
    checks: dict[str, Callable[[], object]] = {
        "database": services.database.check,
        "redis": services.redis.ping,
        "milvus": services.vectors.check,
        "storage": services.blobs.check,
        **{part: partial(_consumed, services, part) for part in CONSUMERS},
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        parts = dict(zip(checks, pool.map(_state, checks.values()), strict=True))
    ready = all(state == "ok" for state in parts.values())
    response = jsonify(Readiness(ready=ready, parts=parts).model_dump())
    response.status_code = 200 if ready else 503
    return response


def _consumed(services: Services, part: str) -> None:
    if not services.redis.exists(alive_key(part)):
        raise Unavailable("no process of this kind is at work")


def _state(check: Callable[[], object]) -> str:
    try:
        check()
    except AkinError as error:
        return error.detail
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, the part is not ready
        return type(error).__name__
    return "ok"
