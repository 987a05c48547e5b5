"""What goes in and out of the API. These types validate requests and generate the OpenAPI document."""

from __future__ import annotations

import base64
import binascii
import json
import math
import unicodedata
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from services.catalog.keys import LOCAL, Scope
from services.catalog.models import IndexState, JobState
from services.images.thumbnails import SIZES

T = TypeVar("T")

MAX_LIMIT = 200
MAX_DEPTH = 32
MAX_ATTRIBUTES = 64 * 1024


class Schema(BaseModel):
    """Base: a member that is not documented is an error."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("is not valid base64") from error


def parse_json(text: str | bytes) -> object:
    """JSON as Python values.

    Raises:
        ValueError: it is not JSON (NaN and Infinity are not), or nested too deeply to be read.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _parsed(value: object) -> object:
    return parse_json(value) if isinstance(value, str) else value


def _storable(value: object, depth: int = 0) -> object:
    """Refuse what the database, or the answer that shows it, cannot hold."""
    if depth > MAX_DEPTH:
        raise ValueError(f"must not be nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not have numbers that are infinite or not a number")
    if isinstance(value, str):
        # PostgreSQL stores neither NUL in text nor lone surrogates.
        if "\x00" in value:
            raise ValueError("must not contain NUL characters")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("must be valid Unicode") from error
    elif isinstance(value, dict):
        for name, member in value.items():
            _storable(name, depth + 1)
            _storable(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _storable(member, depth + 1)
    return value


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value)) > MAX_ATTRIBUTES:
        raise ValueError(f"must not be longer than {MAX_ATTRIBUTES} characters as JSON")
    return value


def _addressable(item_id: str) -> str:
    """Ids stand in addresses: `/v1/items/{item_id}` and `…/similar` must mean this item and nothing else."""
    if any(segment in ("", ".", "..") for segment in item_id.split("/")) or item_id.endswith("/similar"):
        raise ValueError("must not have empty, `.` or `..` segments between slashes, nor end in `/similar`")
    if any(unicodedata.category(character) == "Cc" for character in item_id):
        raise ValueError("must not have control characters")
    return item_id


# In JSON the bytes as base64, in a form the file itself.
PictureBytes = Annotated[
    bytes,
    PlainValidator(_bytes),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "the picture's bytes"}),
]
Text = Annotated[str, BeforeValidator(_storable)]
ItemId = Annotated[
    Text,
    Field(min_length=1, max_length=512, description="your own id, unique in the catalog"),
    AfterValidator(_addressable),
]
# In a form the attributes are JSON text.
Attributes = Annotated[
    dict[str, Any],
    AfterValidator(_small),
    BeforeValidator(_storable),
    BeforeValidator(_parsed),
    Field(description="any JSON object: price, brand, in_stock …"),
]
Title = Annotated[Text, Field(max_length=2000)]
Link = Annotated[Text, Field(max_length=4000)]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]


def _own_name(name: str) -> str:
    if name == LOCAL:
        raise ValueError("this name is kept for the key of `akin up`")
    return name


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="a reference to the documentation of the code")
    title: str
    status: int
    detail: str = Field(description="one sentence for people")
    code: str = Field(description="stable, for programs")
    errors: list[FieldError] | None = Field(None, description="for invalid_request: what is wrong where")


class FieldError(BaseModel):
    """One member of a request that does not fit."""

    field: str
    message: str


class Page(Schema, Generic[T]):
    """A piece of a list; ask again with `cursor=next_cursor` until that is null."""

    data: list[T]
    next_cursor: str | None


class NoQuery(Schema):
    """A route without parameters but the catalog's name."""


class PageQuery(Schema):
    """How much of a list, and from where."""

    limit: Limit = 50
    cursor: int = Field(0, ge=0, le=2**63 - 1, description="next_cursor of the page before")


class ItemChange(Schema):
    """What is to be known of an item; members left out stay as they are."""

    title: Title | None = None
    url: Link | None = None
    attributes: Attributes | None = None


class ImageUpload(ItemChange):
    """One picture of one item."""

    image: PictureBytes
    item_id: ItemId


class ImageAccepted(Schema):
    """The picture is stored and will be searchable when the job has finished."""

    image_id: int
    item_id: str
    created: bool = Field(description="false if the item had these very bytes before")
    job_id: str
    links: dict[str, str]


class EntryMeta(ItemChange):
    """What an import says of one of its files."""

    item_id: ItemId | None = Field(None, description="default: the file's name without its extension")


class ImportUpload(Schema):
    """Many pictures at once."""

    files: list[PictureBytes] = Field(min_length=1, description="the pictures; the file name is the reference")
    manifest: Annotated[list[EntryMeta], BeforeValidator(_parsed)] | None = Field(
        None, description="JSON list parallel to files"
    )


class ItemOut(Schema):
    """An item."""

    item_id: str
    title: str | None
    url: str | None
    attributes: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    links: dict[str, str]


class ImageOut(Schema):
    """A picture of an item."""

    id: int
    item_id: str
    sha256: str
    format: str
    width: int
    height: int
    size_bytes: int
    created_at: datetime
    links: dict[str, str]


class ImageState(ImageOut):
    """A picture and whether it is searchable."""

    state: Literal["pending", "indexed", "failed"]
    error: EntryError | None


class ItemDetail(ItemOut):
    """An item with its pictures, the oldest hundred at most."""

    images: list[ImageOut]


class EntryError(Schema):
    """Why a picture was not embedded."""

    ref: str
    code: str
    detail: str


class JobOut(Schema):
    """A long-running request. For imports total = pending + accepted + indexed + unchanged + failed."""

    id: str
    kind: str
    state: JobState
    total: int
    done: int
    pending: int = Field(description="not looked at yet")
    accepted: int = Field(description="waiting for the encoder")
    indexed: int = Field(description="searchable")
    unchanged: int = Field(description="were searchable before")
    failed: int
    rate: float | None = Field(description="done per second")
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any]
    error: EntryError | None = Field(description="why the job as a whole failed")
    errors: list[EntryError] = Field(description="the first failed entries")
    links: dict[str, str]


class JobListQuery(Schema):
    """How many jobs."""

    limit: Limit = 20


class JobList(Schema):
    """Jobs, newest first."""

    data: list[JobOut]


class SearchQuery(Schema):
    """How many look-alikes, and how alike."""

    limit: Limit = 20
    min_score: float = Field(-1.0, ge=-1, le=1, allow_inf_nan=False, description="lowest cosine to return")


class SearchUpload(SearchQuery):
    """A picture to find look-alikes of."""

    image: PictureBytes


class HitOut(Schema):
    """One look-alike."""

    rank: int
    score: float = Field(description="cosine of the two embeddings")
    image: ImageOut
    item: ItemOut


class SearchOut(Schema):
    """Look-alikes, best first."""

    hits: list[HitOut]
    encoder: str
    index: int
    took_ms: float


class ThumbnailQuery(Schema):
    """Which thumbnail."""

    size: Annotated[Literal[SIZES], BeforeValidator(lambda v: int(v) if str(v).isdigit() else v)] = Field(  # type: ignore[valid-type]
        256, description="pixels of the longer side"
    )


class ContentQuery(Schema):
    """Which bytes."""

    original: bool = Field(False, description="the uploaded bytes, with all their metadata")


class ImageListQuery(PageQuery):
    """How much of the list of pictures."""

    order: Literal["id", "random"] = Field("id", description="random draws pictures from all over the catalog")


class CatalogCreate(Schema):
    """A new catalog."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    encoder: Annotated[Text, Field(max_length=120)] | None = Field(
        None, description="name or name@version of a registered encoder"
    )


class IndexOut(Schema):
    """One generation of vectors."""

    id: int
    state: IndexState
    encoder: str
    dimension: int
    created_at: datetime
    activated_at: datetime | None


class CatalogOut(Schema):
    """A separate set of items."""

    name: str
    items: int
    images: int
    live_index: IndexOut
    indexes: list[IndexOut]
    created_at: datetime


class CatalogList(Schema):
    """Catalogs."""

    data: list[CatalogOut]


class ReindexRequest(Schema):
    """What to embed everything anew with."""

    encoder: Annotated[Text, Field(max_length=120, description="name or name@version of a registered encoder")]


class JobStarted(Schema):
    """A job has begun."""

    job_id: str
    links: dict[str, str]


class EncoderOut(Schema):
    """A registered encoder."""

    ref: str
    dimension: int
    sha256: str
    created_at: datetime


class EncoderList(Schema):
    """Encoders, oldest first."""

    data: list[EncoderOut]


class KeyCreate(Schema):
    """A new key."""

    name: Annotated[Text, Field(min_length=1, max_length=100), AfterValidator(_own_name)]
    scopes: list[Scope] = Field(min_length=1)
    catalog: Annotated[Text, Field(max_length=100)] | None = Field(None, description="bind the key to this catalog")


class KeyOut(Schema):
    """A key, without its secret."""

    id: int
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: datetime


class KeyList(Schema):
    """Keys, oldest first."""

    data: list[KeyOut]


class KeyCreated(Schema):
    """The one time that a key's secret is shown."""

    key: str


class SessionCreate(Schema):
    """Sign a browser in."""

    key: Annotated[str, Field(min_length=1, max_length=200)]


class Health(Schema):
    """The process is up."""

    status: Literal["ok"]


class Readiness(Schema):
    """What the service needs and whether it answers."""

    ready: bool
    parts: dict[str, str] = Field(description="`ok`, or what is wrong, of each part")
