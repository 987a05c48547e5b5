"""The Flask application. Creating it connects to nothing and imports no torch."""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Request, Response
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter, PathConverter

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

POLICY = "Content-Security-Policy"
CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


class Id64(IntegerConverter):
    """Ids of at most 18 digits, which every database can hold; longer ones are no address of anything."""

    regex = r"\d{1,18}"


class ItemId(PathConverter):
    """Ids of items may have slashes; none ends in `/similar`, which is a route of its own, whatever the method."""

    regex = r"[^/].*?(?<!/similar)"


def create_app(services: Services) -> Flask:
    """The application over these services.

    Raises:
        ConfigurationError: Redis or Milvus have no address.
    """
    settings = services.settings
    # Said now instead of by the first request that needs one.
    _ = settings.redis, settings.milvus
    app = Flask("services.api")
    app.url_map.converters.update({"id64": Id64, "item": ItemId})
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
    app.session_interface = Sessions()
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


class Sessions(SecureCookieSessionInterface):
    """Flask's own, but for requests without a cookie, which need no signatures: those of programs and widgets."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """The session of the cookie; a new one without."""
        if "HTTP_COOKIE" not in request.environ or self.get_cookie_name(app) not in request.cookies:
            return self.session_class()
        return super().open_session(app, request)


def _harden(response: Response) -> Response:
    if response.status_code == HTTPStatus.NOT_MODIFIED:  # the headers of what the client has go on to hold
        return response
    headers = response.headers
    if POLICY not in headers:  # some pages have one of their own
        headers.add(POLICY, CONTENT_POLICY)
    headers.extend(HEADERS)
    return response
