"""Every code that an answer, a job or one of its entries may have, with what it means: the documentation's table."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from services.api.errors import STATUS
from services.errors import (
    AkinError,
    Conflict,
    Forbidden,
    Gone,
    ImageReason,
    ImageRejected,
    InvalidRequest,
    NotFound,
)

# Codes that are narrower than their class's own.
SPECIFIC_CODES: Final[dict[str, tuple[type[AkinError], str]]] = {
    "invalid_json": (InvalidRequest, "The body is not JSON."),
    "invalid_idempotency_key": (InvalidRequest, "The Idempotency-Key is empty, too long, or has control characters."),
    "idempotency_key_reused": (InvalidRequest, "The Idempotency-Key was sent with another request."),
    "two_keys": (InvalidRequest, "The header and the address of the request have different keys."),
    "invalid_origin": (InvalidRequest, "The text is no origin, such as https://shop.example; or there are too many."),
    "invalid_filter": (InvalidRequest, "The filter is none; the detail says where."),
    "crop_too_small": (InvalidRequest, "The crop has less than 8 pixels in width or height."),
    "text_unsupported": (InvalidRequest, "The encoder of the live index embeds no text."),
    "only_negative_weights": (InvalidRequest, "Some part of the query needs a weight above 0."),
    "query_cancels_out": (InvalidRequest, "The parts of the query take each other away."),
    "root_not_allowed": (Forbidden, "The place lies below no root of AKIN_IMPORT_ROOTS."),
    "missing_scope": (Forbidden, "The key lacks the scope that the operation needs."),
    "other_catalog": (Forbidden, "The key is bound to another catalog."),
    "other_origin": (Forbidden, "The page is of no origin of the key, or not Akin's own in a signed-in browser."),
    "hidden_attribute": (Forbidden, "A publishable key may not ask about an attribute that it does not show."),
    "catalog_not_found": (NotFound, "There is no catalog of this name."),
    "item_not_found": (NotFound, "The catalog has no item with this id."),
    "image_not_found": (NotFound, "The catalog has no picture with this id."),
    "job_not_found": (NotFound, "The catalog has no job with this id."),
    "key_not_found": (NotFound, "There is no key with this id."),
    "encoder_not_found": (NotFound, "No encoder of this name is registered."),
    "catalog_exists": (Conflict, "There is a catalog of this name already."),
    "reindex_running": (Conflict, "The catalog is being reindexed already."),
    "reindex_same_encoder": (Conflict, "The live index has this encoder already."),
    "job_running": (Conflict, "The job still runs: what failed is retried when it is over."),
    "job_over": (Conflict, "The job is over, or was cancelled."),
    "wrong_kind_of_job": (Conflict, "Only imports are retried; audits and reindexes are not cancelled."),
    "not_cancellable": (Conflict, "A catalog that is being deleted cannot be brought back."),
    "catalog_default": (Conflict, "The default catalog cannot be deleted; its items can."),
    "catalog_own": (Conflict, "A catalog is deleted by a request to another one."),
    "not_searchable_yet": (Conflict, "No picture that the query names is embedded yet."),
    "audit_running": (Conflict, "An audit is running already."),
    "duplicates_running": (Conflict, "A search for duplicates of the catalog is running already."),
    "job_without_result": (Conflict, "The job runs, was stopped or failed, or a later one replaced what it found."),
    "cursor_expired": (Gone, "The cursor of a search is unknown, or was kept for ten minutes."),
    "idempotency_key_at_work": (Conflict, "The same request is at work: ask again for its answer."),
}
IMAGE_CODES: Final[dict[ImageReason, str]] = {
    ImageReason.EMPTY: "The file has no bytes.",
    ImageReason.UNRECOGNISED: "The bytes are not a picture of a known format.",
    ImageReason.UNSUPPORTED: "A picture, but of a format or kind that cannot be embedded.",
    ImageReason.BROKEN: "The picture is damaged or cut off.",
    ImageReason.TOO_MANY_BYTES: "The file is larger than AKIN_MAX_IMAGE_BYTES.",
    ImageReason.TOO_MANY_PIXELS: "Width × height is over AKIN_MAX_IMAGE_PIXELS.",
    ImageReason.TIMEOUT: "Decoding took longer than AKIN_DECODE_TIMEOUT.",
    ImageReason.CRASHED: "The decoder crashed on this file; nothing else was affected.",
    ImageReason.MISSING: "The stored bytes of the picture are gone.",
}
# Codes of jobs and their entries: no request is answered with them.
JOB_CODES: Final[dict[str, str]] = {
    "image_deleted": "The picture was deleted before it was embedded.",
    "attempts_exhausted": "Embedding was tried AKIN_MAX_ATTEMPTS times in vain.",
    "item_exists": "The item was there, and the import is to create only.",
    "source_empty": "The source of a replacing import names nothing.",
    "lease_ended": "Encoding took longer than AKIN_LEASE_SECONDS, too often.",
    "source_unavailable": "The storage that the pictures lie in did not answer for a while.",
    "source_fault": "Reading the source on met unexpected errors; the worker's log has them.",
    "entry_fault": "Looking at the entry met unexpected errors; the worker's log has them.",
    "entry_encrypted": "The file in the archive is encrypted.",
    "entry_unsupported": "The file in the archive is packed in a way that is not supported.",
    "entry_not_a_file": "A link, a device or the like.",
    "entry_unreadable": "The file cannot be read.",
    "entry_invalid": "The line or row does not say what it should.",
    "archive_unreadable": "The archive is damaged, or none.",
    "archive_bomb": "The archive unpacks to far more than it is.",
    "archive_too_many_entries": "The archive lists too many files.",
    "manifest_unreadable": "The manifest is no JSON Lines or CSV in UTF-8.",
    "folder_missing": "There is no such folder.",
    "prefix_unreadable": "The object storage lists what cannot be read.",
    "missing_vector": "The vector store lacks a vector.",
    "missing_collection": "The vector store lacks a whole collection.",
    "missing_row": "A picture has no row in the ledger.",
    "missing_blob": "The bytes of a picture are gone; only an upload of the same picture brings them back.",
    "missing_weights": "The weights of an encoder are gone.",
    "orphaned_vector": "A vector of no picture.",
    "orphaned_collection": "A collection of no index; reported, never dropped.",
    "orphaned_blob": "Stored bytes of no picture.",
    "orphaned_thumbnail": "A thumbnail of no picture.",
    "orphaned_source": "An archive or manifest of no import.",
    "stale_row": "A row of the ledger that nobody moved on.",
    "stale_image": "A deleted picture whose row and bytes nobody removed.",
    "stale_entry": "An entry of an import that nobody moved on.",
    "stale_job": "A job that nobody finished.",
    "mismatched_collection": "A collection of another dimension than its encoder's.",
    "index_retired": "The index that the job worked on was replaced.",
    "duplicates_failed": "The search for duplicates met an unexpected error; the server's log has it.",
    "mismatched_blob": "Stored bytes that are not those of the picture.",
}


@dataclass(frozen=True)
class ProblemCode:
    """A row of the documentation's table of error codes; `status` is None where no request is answered so."""

    code: str
    status: HTTPStatus | None
    meaning: str


def problem_codes() -> list[ProblemCode]:
    """Every code that a problem document or a job's entry may have."""
    general = [ProblemCode(kind.code, status, (kind.__doc__ or "").splitlines()[0]) for kind, status in STATUS.items()]
    specific = [ProblemCode(code, STATUS[kind], meaning) for code, (kind, meaning) in SPECIFIC_CODES.items()]
    images = [ProblemCode(code.value, STATUS[ImageRejected], meaning) for code, meaning in IMAGE_CODES.items()]
    bug = ProblemCode("internal", HTTPStatus.INTERNAL_SERVER_ERROR, "An unexpected error; the server's log has it.")
    method = HTTPStatus.METHOD_NOT_ALLOWED
    http = [bug, ProblemCode(method.name.lower(), method, "The address exists, but not for this method.")]
    answers = sorted([*general, *specific, *images, *http], key=lambda row: (row.status or 0, row.code))
    return [*answers, *(ProblemCode(code, None, meaning) for code, meaning in JOB_CODES.items())]
