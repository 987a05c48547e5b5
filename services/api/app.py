"""The Flask application. Creating it connects to nothing and imports no torch."""

from __future__ import annotations

from flask import Flask, Response
from werkzeug.routing import IntegerConverter, Map

from services.api import admin, audits, errors, health, images, imports, items, jobs, openapi, pages, search
from services.api.contract import check_address
from services.api.snapshots import Snapshots
from services.config import MEGABYTE
from services.secret_key import secret_key
from services.wiring import Services

ROUTERS = (images.router, imports.router, jobs.router, items.router, search.router, admin.router, audits.router)
MAX_FORM_TEXT = 16 * MEGABYTE

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


class Id64(IntegerConverter):
    """Ids that a database can hold; larger ones are not found."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, max=2**63 - 1)


def create_app(services: Services) -> Flask:
    """The application over these services.

    Raises:
        ConfigurationError: Redis or Milvus have no address.
    """
    settings = services.settings
    # Said now instead of by the first request that needs one.
    _ = settings.redis, settings.milvus
    app = Flask("services.api")
    app.url_map.converters["id64"] = Id64
    app.config.update(
        SECRET_KEY=secret_key(settings),
        SESSION_COOKIE_NAME="akin",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        # One picture in base64 and its item; routes for more say so.
        MAX_CONTENT_LENGTH=settings.max_image_bytes * 4 // 3 + MEGABYTE,
        SESSION_COOKIE_SECURE=settings.secure_cookie,
        MAX_FORM_MEMORY_SIZE=MAX_FORM_TEXT,
        # One more than may be, so that our own message says what the limit is.
        MAX_FORM_PARTS=settings.max_import_files + 10,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["akin"] = services
    app.extensions[jobs.SNAPSHOTS] = Snapshots()
    errors.install(app)
    app.before_request(check_address)
    app.after_request(_harden)
    for router in ROUTERS:
        app.register_blueprint(router.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(pages.blueprint)
    app.extensions["akin.openapi"] = openapi.document([o for router in ROUTERS for o in router.operations])
    return app


def _harden(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
