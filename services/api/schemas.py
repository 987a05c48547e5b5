"""What goes in and out of the API. These types validate requests and generate the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.api.fields import (
    AttributeName,
    Attributes,
    ItemId,
    KeyName,
    Limit,
    Link,
    Location,
    PictureBytes,
    Text,
    Title,
    WebAddress,
    parsed,
)
from services.catalog.fields import CATALOG_NAME
from services.catalog.keys import MOST_ATTRIBUTES, WIDGET_ATTRIBUTES, Scope
from services.catalog.states import ImportMode, IndexState, JobState
from services.images.thumbnails import SIZES

T = TypeVar("T")


class Schema(BaseModel):
    """Base: a member that is not documented is an error."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


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


class ImportOptions(Schema):
    """What an import does with what is there, and who is told when it is over."""

    mode: ImportMode = Field(
        ImportMode.UPSERT,
        description="upsert adds and changes; create fails for items that are there; replace removes what is not "
        "named, once everything else succeeded",
    )
    webhook: WebAddress | None = Field(None, description="gets a signed POST when the job is over")


class ImportUpload(ImportOptions):
    """Many pictures at once."""

    files: list[PictureBytes] = Field(min_length=1, description="the pictures; the file name is the reference")
    manifest: Annotated[list[EntryMeta], BeforeValidator(parsed)] | None = Field(
        None, description="JSON list parallel to files"
    )


class ManifestQuery(ImportOptions):
    """How to read an uploaded manifest."""

    base: Location | None = Field(None, description="where paths of the manifest begin: a folder or prefix")


class SourceImport(ManifestQuery):
    """Pictures that lie where workers can read them."""

    location: Location | None = Field(None, description="a folder or an s3://, gs:// or az:// prefix")
    url: WebAddress | None = Field(None, description="http(s) address of a manifest (JSON Lines, CSV) or an archive")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.location is None) == (self.url is None):
            raise ValueError("name either a location or a url")
        if self.base is not None and self.url is None:
            raise ValueError("base goes with the url of a manifest")
        return self


class FetchedPicture(ItemChange):
    """A picture to fetch, and its item."""

    image: WebAddress = Field(description="http(s) address of the picture")
    item_id: ItemId | None = Field(None, description="default: host and path of the address")


class UrlImport(ImportOptions):
    """Pictures to fetch."""

    pictures: list[FetchedPicture] = Field(min_length=1, max_length=10_000)


class DeletionRequest(Schema):
    """Which items to delete: those of a filter, or by their ids."""

    filter: dict[str, Any] | None = Field(
        None, description='such as {"field": "brand", "eq": "Acme"}, {"field": "price", "lt": 5}, {"and": [...]}'
    )
    item_ids: list[ItemId] | None = Field(None, min_length=1, max_length=10_000)
    dry_run: bool = Field(False, description="only count them")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.filter is None) == (self.item_ids is None):
            raise ValueError("give either a filter or item_ids")
        return self


class DeletionStarted(Schema):
    """How many items are to go, and the job that deletes them; none for a dry run."""

    matched: int
    job_id: str | None
    links: dict[str, str]


class WebhookSecret(Schema):
    """What signatures of the catalog's webhooks are checked with."""

    secret: str


class WebhookOut(Schema):
    """Who is told that a job is over."""

    url: str
    attempts: int
    delivered_at: datetime | None
    error: str | None = Field(description="what the last attempt met")


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
    """A long-running request. For imports total = pending + accepted + indexed + unchanged + failed + cancelled."""

    id: str
    kind: str
    state: JobState
    mode: ImportMode
    source: dict[str, Any] = Field(description="where an import's pictures come from, or what a job was asked for")
    listed: bool = Field(description="total is final: all that the source names is known")
    total: int
    done: int
    pending: int = Field(description="not looked at yet")
    accepted: int = Field(description="waiting for the encoder")
    indexed: int = Field(description="searchable")
    unchanged: int = Field(description="were searchable before")
    failed: int
    cancelled: int = Field(description="left out, because the job was cancelled before anybody looked at them")
    rate: float | None = Field(description="done per second")
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any]
    error: EntryError | None = Field(description="why the job as a whole failed")
    errors: list[EntryError] = Field(description="the first failed entries")
    failed_by_code: dict[str, int] = Field(description="how many failed for which reason, the most frequent first")
    webhook: WebhookOut | None
    links: dict[str, str]

    def version(self) -> object:
        """What a viewer would notice; rate and time left only follow from it."""
        return self.model_dump(exclude={"rate", "eta_seconds"})


class JobListQuery(Schema):
    """How many jobs."""

    limit: Limit = 20


class JobList(Schema):
    """Jobs, newest first."""

    data: list[JobOut]


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

    name: str = Field(pattern=CATALOG_NAME)
    encoder: Annotated[Text, Field(max_length=120)] | None = Field(
        None, description="name or name@version of a registered encoder"
    )


EmbedsText = Annotated[bool, Field(description="searches may have parts of text")]


class IndexOut(Schema):
    """One generation of vectors."""

    id: int
    state: IndexState
    encoder: str
    dimension: int
    embeds_text: EmbedsText
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
    embeds_text: EmbedsText
    sha256: str
    created_at: datetime


class EncoderList(Schema):
    """Encoders, oldest first."""

    data: list[EncoderOut]


class KeyCreate(Schema):
    """A new key."""

    name: KeyName
    scopes: list[Scope] = Field(min_length=1)
    catalog: Annotated[Text, Field(max_length=100)] | None = Field(None, description="bind the key to this catalog")
    origins: list[Annotated[Text, Field(max_length=300)]] | None = Field(
        None,
        description="makes a publishable key, with the scope `widget` alone: the sites whose pages may use it, such as "
        "https://shop.example; its catalog is the default one unless named",
    )
    attributes: list[AttributeName] | None = Field(
        None,
        max_length=MOST_ATTRIBUTES,
        description="of items, that a publishable key shows and that its pages may filter by: "
        f"{', '.join(WIDGET_ATTRIBUTES)} unless given",
    )

    @model_validator(mode="after")
    def _publishable(self) -> Self:
        if (self.origins is not None) != (set(self.scopes) == {Scope.WIDGET}):
            raise ValueError("origins go with the scope widget alone, and it with them")
        if self.attributes is not None and self.origins is None:
            raise ValueError("attributes are for publishable keys; others show them all")
        return self


class KeyOut(Schema):
    """A key, without its secret."""

    id: int
    name: str
    prefix: str
    scopes: list[Scope]
    public: str | None = Field(description="the key itself, where it is publishable")
    origins: list[str] | None = Field(description="the sites whose pages may use a publishable key")
    attributes: list[str] | None = Field(description="of items, that a publishable key shows; null: all")
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
