"""Catalogs, encoders, reindexing and keys."""

from __future__ import annotations

from http import HTTPStatus

from services import deletion, reindex
from services.api import present
from services.api.auth import Caller
from services.api.contract import Call, Router
from services.api.schemas import (
    CatalogCreate,
    CatalogList,
    CatalogOut,
    EncoderList,
    JobStarted,
    KeyCreate,
    KeyCreated,
    KeyList,
    KeyOut,
    ReindexRequest,
)
from services.bootstrap import create_catalog
from services.catalog import catalogs, encoders, keys
from services.catalog.keys import Scope
from services.errors import Conflict, Forbidden

router = Router("admin")


@router.route("GET", "/v1/catalogs", scope=Scope.SEARCH, returns=CatalogList)
def list_catalogs(call: Call[None, None]) -> CatalogList:
    """The catalogs that this key may use."""
    with call.services.database.reading() as session:
        rows = catalogs.all_of(session, call.caller.bound_to)
        return CatalogList(data=[present.catalog(session, row) for row in rows])


@router.route(
    "POST",
    "/v1/catalogs",
    scope=Scope.ADMIN,
    body=CatalogCreate,
    status=HTTPStatus.CREATED,
    returns=CatalogOut,
    errors=(Conflict,),
)
def add_catalog(call: Call[None, CatalogCreate]) -> CatalogOut:
    """Create a catalog, empty, with a live index."""
    _refuse_bound(call.caller)
    encoder = call.body.encoder or call.services.settings.default_encoder
    with call.services.database.transaction() as session:
        return present.catalog(session, create_catalog(session, call.body.name, encoder))


@router.route(
    "DELETE",
    "/v1/catalogs/<name>",
    scope=Scope.ADMIN,
    status=HTTPStatus.ACCEPTED,
    returns=JobStarted,
    errors=(Conflict,),
)
def delete_catalog(call: Call[None, None], name: str) -> JobStarted:
    """Delete a catalog with all it holds. It is gone at once, and so are its keys; a job removes what it held."""
    _refuse_bound(call.caller)
    job_id = deletion.start_catalog(call.services, name, call.caller.catalog_id)
    return JobStarted(job_id=job_id, links={"job": f"/v1/jobs/{job_id}"})


@router.route("GET", "/v1/encoders", scope=Scope.SEARCH, returns=EncoderList)
def list_encoders(call: Call[None, None]) -> EncoderList:
    """Every registered encoder."""
    with call.services.database.reading() as session:
        return EncoderList(data=[present.encoder(row) for row in encoders.all_of(session)])


@router.route(
    "POST",
    "/v1/admin/reindex",
    scope=Scope.ADMIN,
    body=ReindexRequest,
    status=HTTPStatus.ACCEPTED,
    returns=JobStarted,
    errors=(Conflict,),
)
def start_reindex(call: Call[None, ReindexRequest]) -> JobStarted:
    """Embed the whole catalog with another encoder, beside the live index.

    Uploads meanwhile go to both; searches use the old one until the new one is complete, then it goes live in
    one step.
    """
    job_id = reindex.start(call.services, call.caller.catalog_id, call.body.encoder)
    return JobStarted(job_id=job_id, links={"job": f"/v1/jobs/{job_id}"})


@router.route("GET", "/v1/admin/keys", scope=Scope.ADMIN, returns=KeyList)
def list_keys(call: Call[None, None]) -> KeyList:
    """Keys that are in force, without their secrets."""
    _refuse_bound(call.caller)
    with call.services.database.reading() as session:
        return KeyList(data=[KeyOut.model_validate(row) for row in keys.all_of(session)])


@router.route(
    "POST",
    "/v1/admin/keys",
    scope=Scope.ADMIN,
    body=KeyCreate,
    status=HTTPStatus.CREATED,
    returns=KeyCreated,
    repeatable=False,
)
def create_key(call: Call[None, KeyCreate]) -> KeyCreated:
    """Make a key. Its secret is in this answer only.

    A publishable key stands in web pages and is no secret: the list of keys shows it.
    """
    _refuse_bound(call.caller)
    body = call.body
    with call.services.database.transaction() as session:
        if body.origins is not None:
            catalog_id = catalogs.by_name(session, body.catalog or catalogs.DEFAULT).id
            shown = keys.WIDGET_ATTRIBUTES if body.attributes is None else body.attributes
            return KeyCreated(key=keys.create_publishable(session, body.name, catalog_id, body.origins, shown))
        catalog = catalogs.by_name(session, body.catalog).id if body.catalog else None
        return KeyCreated(key=keys.create(session, body.name, body.scopes, catalog))


@router.route("DELETE", "/v1/admin/keys/<id64:key_id>", scope=Scope.ADMIN, status=HTTPStatus.NO_CONTENT)
def revoke_key(call: Call[None, None], key_id: int) -> None:
    """End a key at once; a publishable one within two seconds."""
    _refuse_bound(call.caller)
    with call.services.database.transaction() as session:
        keys.revoke(session, key_id)


def _refuse_bound(caller: Caller) -> None:
    if caller.bound_to is not None:
        raise Forbidden("this key is bound to one catalog", code="other_catalog")
