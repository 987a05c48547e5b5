"""Who asks, and may they? Keys in the Authorization header, or the session cookie of a signed-in browser."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Request, session

from services.catalog import catalogs, keys
from services.catalog.keys import Scope
from services.catalog.models import Key
from services.errors import Forbidden, Unauthorized
from services.wiring import Services

SESSION_KEY = "key"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Caller:
    """An authenticated key and the catalog that its request is about."""

    key_id: int
    scopes: frozenset[Scope]
    bound_to: int | None
    catalog_id: int


def authenticate(services: Services, request: Request, scope: Scope) -> Caller:
    """The caller of a request.

    Raises:
        Unauthorized: no key, or one that is unknown or revoked.
        Forbidden: the key lacks the scope or is bound to another catalog, or another site sent the request.
        NotFound: there is no catalog of the requested name.
    """
    with services.database.reading() as database:
        secret = bearer(request)
        if secret is not None:
            key = keys.authenticate(database, secret)
        elif SESSION_KEY in session:
            _refuse_other_sites(request)
            key = keys.by_id(database, session[SESSION_KEY])
        else:
            raise Unauthorized("send your API key as `Authorization: Bearer akin_…`")
        if key is None:
            raise Unauthorized("this key is unknown or revoked")
        scopes = granted(key)
        if scope not in scopes:
            raise Forbidden(f"this key lacks the scope `{scope.value}`", code="missing_scope")
        name = request.args.get("catalog")
        if key.catalog_id is not None and name is None:
            catalog_id = key.catalog_id
        else:
            catalog_id = catalogs.by_name(database, name or catalogs.DEFAULT).id
            if key.catalog_id not in (None, catalog_id):
                raise Forbidden("this key is bound to another catalog", code="other_catalog")
        return Caller(key.id, scopes, key.catalog_id, catalog_id)


def bearer(request: Request) -> str | None:
    """The secret in the Authorization header."""
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def granted(key: Key) -> frozenset[Scope]:
    """A key's scopes; `admin` includes the others."""
    return frozenset(Scope) if Scope.ADMIN in key.scopes else frozenset(map(Scope, key.scopes))


def _refuse_other_sites(request: Request) -> None:
    """A browser attaches the cookie by itself, so a change must come from our own page.

    SameSite=Strict says so already; ports of one host are one site, though, so the origin is compared as well.
    """
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("Origin")
    if origin is None or urlsplit(origin).netloc != request.host:
        raise Forbidden("a signed-in browser may change things from Akin's own pages only", code="other_origin")
