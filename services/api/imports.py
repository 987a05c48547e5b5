"""Bulk upload, and jobs."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from services import ingest
from services.api import present
from services.api.contract import FORM, Call, Router
from services.api.fields import ItemId
from services.api.schemas import (
    EntryError,
    EntryMeta,
    ImportUpload,
    JobList,
    JobListQuery,
    JobOut,
    Page,
    PageQuery,
)
from services.catalog import jobs
from services.catalog.items import ItemFields
from services.catalog.keys import Scope
from services.errors import Conflict, InvalidRequest, TooLarge
from services.ingest import Upload
from services.jobs import cancel, retry

router = Router("imports")

UNNAMED = "file"


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
    return _shown(call, ingest.start_import(call.services, call.caller.catalog_id, uploads))


def _fields(name: str, meta: EntryMeta) -> ItemFields:
    return ItemFields(meta.item_id or _item_id(name), meta.title, meta.url, meta.attributes)


def _item_id(name: str) -> str:
    """The file's name without its extension, with its folders, as an id that addresses can hold."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    item_id = str(PurePosixPath(*parts).with_suffix(""))[-511:] if parts else UNNAMED
    if item_id.endswith("/similar"):  # which an address would take for the route of that name
        item_id += "-"
    try:
        return TypeAdapter(ItemId).validate_python(item_id)
    except ValidationError:
        return UNNAMED


@router.route("GET", "/v1/jobs", scope=Scope.INGEST, query=JobListQuery, returns=JobList)
def list_jobs(call: Call[JobListQuery, None]) -> JobList:
    """The latest jobs, newest first."""
    with call.services.database.reading() as session:
        rows = jobs.page(session, call.caller.catalog_id, call.query.limit)
        return JobList(data=[present.job(session, row) for row in rows])


@router.route("GET", "/v1/jobs/<job_id>", scope=Scope.INGEST, returns=JobOut)
def get_job(call: Call[None, None], job_id: str) -> JobOut:
    """State, counts, rate and first errors of a job."""
    return _shown(call, job_id)


@router.route("GET", "/v1/jobs/<job_id>/errors", scope=Scope.INGEST, query=PageQuery, returns=Page[EntryError])
def list_job_errors(call: Call[PageQuery, None], job_id: str) -> Page[EntryError]:
    """Everything that failed in a job, with its reason."""
    query = call.query
    with call.services.database.reading() as session:
        job = jobs.get(session, job_id, call.caller.catalog_id)
        errors, last = present.job_errors(session, job, after=query.cursor, limit=query.limit)
        return Page(data=errors, next_cursor=None if last is None else str(last))


@router.route("POST", "/v1/jobs/<job_id>/cancel", scope=Scope.INGEST, returns=JobOut, errors=(Conflict,))
def cancel_job(call: Call[None, None], job_id: str) -> JobOut:
    """Stop an import.

    Nothing more of it is accepted, within seconds. What was accepted before stays, and becomes searchable.
    """
    cancel(call.services, call.caller.catalog_id, job_id)
    return _shown(call, job_id)


@router.route("POST", "/v1/jobs/<job_id>/retry", scope=Scope.INGEST, returns=JobOut, errors=(Conflict,))
def retry_job(call: Call[None, None], job_id: str) -> JobOut:
    """Give the failed entries of an import that is over another try, and only those."""
    retry(call.services, call.caller.catalog_id, job_id)
    return _shown(call, job_id)


def _shown(call: Call[Any, Any], job_id: str) -> JobOut:
    with call.services.database.reading() as session:
        return present.job(session, jobs.get(session, job_id, call.caller.catalog_id))
