"""Audits: does what SQL says agree with vectors and bytes?"""

from __future__ import annotations

from http import HTTPStatus

from pydantic import Field

from services import audit
from services.api.contract import Call, Router
from services.api.schemas import JobStarted, Schema
from services.catalog.keys import Scope
from services.errors import Conflict, Forbidden

router = Router("audits")


class AuditRequest(Schema):
    """What an audit is to do."""

    repair: bool = Field(False, description="heal what can be healed, instead of only listing it")
    deep: bool = Field(False, description="read every stored picture in full and compare its SHA-256")


@router.route(
    "POST",
    "/v1/admin/audits",
    scope=Scope.ADMIN,
    body=AuditRequest,
    status=HTTPStatus.ACCEPTED,
    returns=JobStarted,
    errors=(Conflict,),
)
def start_audit(call: Call[None, AuditRequest]) -> JobStarted:
    """Compare database, vectors and stored bytes of all catalogs.

    The job's `result` counts what is missing, orphaned, stale and mismatched, by kind, and what was repaired; its
    errors list the first 10,000. Uploads and searches go on meanwhile. One audit runs at a time.
    """
    if call.caller.bound_to is not None:
        raise Forbidden("this key is bound to one catalog", code="other_catalog")
    job_id = audit.start(call.services, call.caller.catalog_id, repair=call.body.repair, deep=call.body.deep)
    return JobStarted(job_id=job_id, links={"job": f"/v1/jobs/{job_id}"})
