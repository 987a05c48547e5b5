"""The Flask application. Creating it connects to nothing and imports no torch."""

from __future__ import annotations

from flask import Flask, Response
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter

from services.api import (
    admin,
    audits,
    auth,
    cors,
    duplicates,
    errors,
    health,
    images,
    imports,
    items,
    jobs,
    openapi,
    pages,
    search,
    similar,
    widget,
)
from services.api.contract import check_address
from services.api.snapshots import Snapshots
from services.config import MEGABYTE
from services.secret_key import secret_key
from services.wiring import Services

ROUTERS = (
    images.router,
    imports.router,
    jobs.router,
    items.router,
    search.router,
    similar.router,
    widget.router,
    admin.router,
    audits.router,
    duplicates.router,
)
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
    """Ids of at most 18 digits, which every database can hold; longer ones are no address of anything."""

    regex = r"\d{1,18}"


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
    app.extensions[auth.REMEMBERED] = auth.remembered_keys()
    if settings.proxies:
        near = settings.proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=near, x_proto=near, x_host=near)  # type: ignore[method-assign]
    errors.install(app)
    app.before_request(check_address)
    app.after_request(_harden)
    for router in ROUTERS:
        app.register_blueprint(router.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(widget.blueprint)
    operations = [operation for router in ROUTERS for operation in router.operations]
    cors.install(app, operations)
    app.extensions["akin.openapi"] = openapi.document(operations)
    return app


def _harden(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
