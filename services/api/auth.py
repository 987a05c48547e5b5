"""Who asks, and may they? Keys in the Authorization header, or the session cookie of a signed-in browser.

Publishable keys stand in the pages of a shop, for anybody to read. Such a key is held to the origins of the shop, which
browsers name truthfully: other sites' pages cannot use it in their visitors' browsers. A program that is no browser
can say any origin, so the check keeps nobody from asking; it may see what the shop's pages show anyway, no more, and
`services/api/rate_limit.py` bounds how often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from flask import Request, current_app, g, session
from sqlalchemy import Connection

from services.caching import Recent
from services.catalog import catalogs, keys
from services.catalog.keys import Held, Scope
from services.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from services.wiring import Services

SESSION_KEY = "key"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# Where the application keeps its `remembered_keys`.
REMEMBERED = "akin.keys"
# For so long a process takes a publishable key for valid: its revocation may take this long.
REMEMBERED_SECONDS: Final = 2.0
MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True)
class Caller:
    """An authenticated key and the catalog that its request is about."""

    key_id: int
    scopes: frozenset[Scope]
    bound_to: int | None
    catalog_id: int
    # The key is publishable: anybody may have it.
    public: bool = False
    # The attributes of items that it shows; None: all.
    shown: frozenset[str] | None = None


@dataclass(frozen=True)
class _Known:
    """What of a key outlives the session that it was read in."""

    id: int
    scopes: frozenset[Scope]
    catalog_id: int | None
    public: bool
    origins: frozenset[str]
    shown: frozenset[str] | None


RememberedKeys = Recent[str, _Known]


def remembered_keys() -> RememberedKeys:
    """Publishable keys, each for a moment after it was read: pages of a shop ask with the same one all the time."""
    return RememberedKeys(MOST_REMEMBERED, REMEMBERED_SECONDS)


def authenticate(services: Services, request: Request, scope: Scope) -> Caller:
    """The caller of a request.

    Raises:
        InvalidRequest: the request has two keys.
        Unauthorized: no key, or one that is unknown or revoked.
        Forbidden: the key lacks the scope or is bound to another catalog, or another site sent the request.
        NotFound: there is no catalog of the requested name.
    """
    secret = _secret(request, scope)
    key = None
    if secret is not None and secret.startswith(keys.PUBLISHABLE):
        key = _publishable(services, secret)
        _refuse_other_origins(request, key.origins)
        if key.catalog_id is not None and "catalog" not in request.args:
            return _caller(key, scope, key.catalog_id)
    with services.database.rows() as database:
        if key is None:
            key = _secret_key(database, request, secret)
        name = request.args.get("catalog")
        if key.catalog_id is not None and name is None:
            return _caller(key, scope, key.catalog_id)
        return _caller(key, scope, _catalog_id(database, key, name or catalogs.DEFAULT))


def _secret(request: Request, scope: Scope) -> str | None:
    """The key of the header or of the address.

    A shared cache keeps an answer under its address: with another key in the header, one catalog's answer would be
    kept for another's.
    """
    sent, written = bearer(request), _in_address(request, scope)
    if sent is not None and written is not None and sent != written:
        raise InvalidRequest("the header and the address have different keys: send one", code="two_keys")
    return sent or written


def _catalog_id(database: Connection, key: _Known, name: str) -> int | None:
    """The catalog of a name; None where there is none and the key is bound, whose holder is not to learn of others."""
    try:
        return catalogs.id_of(database, name)
    except NotFound:
        if key.catalog_id is None:
            raise
        return None


def _publishable(services: Services, secret: str) -> _Known:
    remembered: RememberedKeys = current_app.extensions[REMEMBERED]
    known = remembered.get(secret)
    if known is None:
        with services.database.rows() as database:
            known = _known(keys.authenticate(database, secret))
        # Only keys that exist are kept, so what strangers send takes no room.
        remembered.put(secret, known)
    return known


def _secret_key(database: Connection, request: Request, secret: str | None) -> _Known:
    """The key of a secret, or of the browser that was signed in with one."""
    if secret is not None:
        return _known(keys.authenticate(database, secret))
    if SESSION_KEY not in session:
        raise Unauthorized("send your API key as `Authorization: Bearer akin_…`")
    _refuse_other_sites(request)
    key = _known(keys.signed_in(database, session[SESSION_KEY]))
    if key.public:
        raise Unauthorized("a publishable key signs nobody in")
    return key


def _caller(key: _Known, scope: Scope, catalog_id: int | None) -> Caller:
    if scope not in key.scopes:
        raise Forbidden(f"this key lacks the scope `{scope.value}`", code="missing_scope")
    if catalog_id is None or key.catalog_id not in (None, catalog_id):
        raise Forbidden("this key is bound to another catalog", code="other_catalog")
    return Caller(key.id, key.scopes, key.catalog_id, catalog_id, key.public, key.shown)


def bearer(request: Request) -> str | None:
    """The secret in the Authorization header."""
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def _in_address(request: Request, scope: Scope) -> str | None:
    """The publishable key in the address, where pictures and beacons may have it: they send no headers of ours."""
    given = request.args.get("key") if scope is Scope.WIDGET else None
    if given is not None and not given.startswith(keys.PUBLISHABLE):
        raise Unauthorized("addresses are written to logs: only publishable keys, `pk_…`, may stand in one")
    return given


def granted(key: Held) -> frozenset[Scope]:
    """A key's scopes; `admin` includes the others, `search` includes `widget`."""
    if Scope.ADMIN in key.scopes:
        return frozenset(Scope)
    return frozenset(map(Scope, key.scopes)) | ({Scope.WIDGET} if Scope.SEARCH in key.scopes else set())


def _known(key: Held | None) -> _Known:
    if key is None:
        raise Unauthorized("this key is unknown or revoked")
    public = key.public is not None
    shown = frozenset(key.attributes or ()) if public else None
    return _Known(key.id, granted(key), key.catalog_id, public, frozenset(key.origins or ()), shown)


def _refuse_other_origins(request: Request, origins: frozenset[str]) -> None:
    """A publishable key is for its own pages, as far as browsers say whose page asks.

    | what the browser sends | when | taken |
    | --- | --- | --- |
    | Origin | requests of scripts to another origin, POST, `<img crossorigin>` | if it is one of the key's |
    | no Origin, Sec-Fetch-Site: same-origin | GET by Akin's own pages | if Akin's own origin is one of the key's |
    | no Origin, Sec-Fetch-Dest: image | a plain `<img>` | for pictures |
    | neither | no browser, or plain http to another machine | no |
    """
    origin = request.headers.get("Origin")
    if origin is not None:
        if origin in origins:
            g.allowed_origin = origin
            return
        raise Forbidden(f"this key is not for pages of {origin[:200]}", code="other_origin")
    if request.method in SAFE_METHODS:
        own = any(urlsplit(allowed).netloc == request.host for allowed in origins)
        if own and request.headers.get("Sec-Fetch-Site") == "same-origin":
            return
        picture = request.path.endswith("/thumbnail")
        if picture and request.headers.get("Sec-Fetch-Dest") == "image":
            return
    raise Forbidden("a publishable key is for pages of its origins, in browsers", code="other_origin")


def _refuse_other_sites(request: Request) -> None:
    """A browser attaches the cookie by itself, so a change must come from our own page.

    SameSite=Strict says so already; ports of one host are one site, though, so the origin is compared as well.
    """
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("Origin")
    if origin is None or urlsplit(origin).netloc != request.host:
        raise Forbidden("a signed-in browser may change things from Akin's own pages only", code="other_origin")
