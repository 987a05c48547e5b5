"""Bulk ingestion: pictures of a request, of archives, manifests, folders and object stores, and of other servers."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from services import ingest, webhooks
from services.api.contract import FORM, Call, Router
from services.api.jobs import shown
from services.api.schemas import (
    EntryMeta,
    FetchedPicture,
    ImportOptions,
    ImportUpload,
    JobOut,
    ManifestQuery,
    SourceImport,
    UrlImport,
    WebhookSecret,
)
from services.catalog.items import ItemFields
from services.catalog.keys import Scope
from services.errors import InvalidRequest, Overloaded, TooLarge
from services.ingest import Address, Options, Upload
from services.sources.names import UNNAMED, item_id_of

router = Router("imports")

ARCHIVES = (
    "application/zip",
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
)
MANIFESTS = ("application/x-ndjson", "application/jsonl", "text/csv")


@router.route(
    "POST",
    "/v1/imports",
    scope=Scope.INGEST,
    body=ImportUpload,
    accepts=(FORM,),
    files=("files",),
    bulk=True,
    status=HTTPStatus.ACCEPTED,
    returns=JobOut,
    errors=(Overloaded,),
)
def start_import(call: Call[None, ImportUpload]) -> JobOut:
    """Upload many pictures in one request.

    Each file is an entry of the job; one that fails is listed under the job's errors and stops none of the
    others. Without a manifest a file's item is its name without the extension.
    """
    files, manifest = call.body.files, call.body.manifest
    if len(files) > call.services.settings.max_import_files:
        raise TooLarge(f"an import may have {call.services.settings.max_import_files} files, not {len(files)}")
    if manifest is not None and len(manifest) != len(files):
        raise InvalidRequest(f"manifest: has {len(manifest)} members for {len(files)} files")
    names = [(part.filename or UNNAMED).replace("\x00", "") for part in call.files if part.name == "files"]
    metas = manifest or [EntryMeta()] * len(files)
    uploads = [Upload(name, data, _fields(name, meta)) for name, data, meta in zip(names, files, metas, strict=True)]
    return shown(call, ingest.start_import(call.services, call.caller.catalog_id, uploads, _options(call.body)))


@router.route(
    "POST",
    "/v1/imports/archive",
    scope=Scope.INGEST,
    query=ImportOptions,
    accepts=ARCHIVES,
    stream=True,
    status=HTTPStatus.ACCEPTED,
    returns=JobOut,
    errors=(Overloaded,),
)
def import_archive(call: Call[ImportOptions, None]) -> JobOut:
    """Upload a zip, tar or tar.gz file of pictures.

    The body is the file itself. It is read from the storage by workers and never unpacked to a disk; an `items.jsonl`
    in it says which item a picture belongs to, otherwise that is its path without the extension.
    """
    return _stored(call, {"form": "archive"})


@router.route(
    "POST",
    "/v1/imports/manifest",
    scope=Scope.INGEST,
    query=ManifestQuery,
    accepts=MANIFESTS,
    stream=True,
    status=HTTPStatus.ACCEPTED,
    returns=JobOut,
    errors=(Overloaded,),
)
def import_manifest(call: Call[ManifestQuery, None]) -> JobOut:
    """Upload a list of items with the places of their pictures, as JSON Lines or CSV.

    Each line or row has `item_id`, and may have `image` (an http(s) address, or a path below `base`), `title`, `url`
    and `attributes` (in CSV also columns such as `attributes.price`). One without `image` changes the item only.
    """
    return _stored(call, {"form": "manifest", "media_type": call.media_type, "base": call.query.base})


@router.route(
    "POST",
    "/v1/imports/source",
    scope=Scope.INGEST,
    body=SourceImport,
    status=HTTPStatus.ACCEPTED,
    returns=JobOut,
    errors=(Overloaded,),
)
def import_source(call: Call[None, SourceImport]) -> JobOut:
    """Import what lies in a folder or object store that workers may read, or what a manifest elsewhere names.

    Folders and prefixes have to be allowed by the setting AKIN_IMPORT_ROOTS.
    """
    body = call.body
    source: Mapping[str, Any] = (
        {"kind": "location", "location": body.location}
        if body.location is not None
        else {"kind": "url", "url": body.url, "base": body.base}
    )
    return shown(call, ingest.start_located(call.services, call.caller.catalog_id, source, _options(body)))


@router.route(
    "POST",
    "/v1/imports/urls",
    scope=Scope.INGEST,
    body=UrlImport,
    status=HTTPStatus.ACCEPTED,
    returns=JobOut,
    errors=(Overloaded,),
)
def import_urls(call: Call[None, UrlImport]) -> JobOut:
    """Import pictures of other servers.

    Only public addresses are fetched. A picture that was imported from its address before is asked for with the
    condition that it has changed.
    """
    addresses = [Address(picture.image, _fetched_fields(picture)) for picture in call.body.pictures]
    return shown(call, ingest.start_fetching(call.services, call.caller.catalog_id, addresses, _options(call.body)))


@router.route("GET", "/v1/webhooks/secret", scope=Scope.ADMIN, returns=WebhookSecret)
def get_webhook_secret(call: Call[None, None]) -> WebhookSecret:
    """What signatures of webhooks of this catalog's jobs are checked with (Standard Webhooks)."""
    return WebhookSecret(secret=webhooks.secret_of(call.services, call.caller.catalog_id))


def _stored(call: Call[Any, None], source: Mapping[str, Any]) -> JobOut:
    options = _options(call.query)
    return shown(call, ingest.start_stored(call.services, call.caller.catalog_id, call.chunks, source, options))


def _options(given: ImportOptions) -> Options:
    return Options(given.mode, given.webhook)


def _fields(name: str, meta: EntryMeta) -> ItemFields:
    return ItemFields(meta.item_id or item_id_of(name), meta.title, meta.url, meta.attributes)


def _fetched_fields(picture: FetchedPicture) -> ItemFields:
    address = urlsplit(picture.image)
    item_id = picture.item_id or item_id_of(f"{address.hostname or ''}{unquote(address.path)}")
    return ItemFields(item_id, picture.title, picture.url, picture.attributes)
