"""From the things that searches name to query vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from services.caching import recall, remember_soon
from services.catalog import found
from services.catalog.found import Known, LiveIndex
from services.encoders.manifest import Manifest
from services.errors import AkinError, Conflict, ImageReason, ImageRejected, InvalidRequest, NotFound
from services.images.preprocess import Crop
from services.search.fetching import fetch
from services.search.known import manifest_of, vectors_of
from services.search.ranked import MOST_QUERIES, Query
from services.search.request import Address, KnownImage, KnownItem, Picture, Search, Subject, Words
from services.storage.blobs import key_of
from services.wiring import Services

Vector = NDArray[np.float32]

REMEMBERED_SECONDS: Final = 600
ENCODED_AT_ONCE: Final = 16
# Parts that take each other away leave rounding errors, which point nowhere. Beside weights that are 1 together.
SHORTEST: Final = 1e-3


@dataclass(frozen=True)
class Catalogued:
    """What the catalog has of the items (primary key and pictures, oldest first) and images that searches name.

    Among the images are those of items of one picture, where a search is to be explained.
    """

    items: Mapping[str, tuple[int, list[int]]]
    images: Mapping[int, Known]


@dataclass(frozen=True)
class Prepared:
    """A query, and what made it.

    Attributes:
        calibrated: scores are cosines of two pictures' vectors.
        picture: the one picture that is searched with; None where there are several things, or none is a picture.
    """

    query: Query
    calibrated: bool
    picture: Picture | Known | None


@dataclass(frozen=True)
class _Encoded:
    vector: Vector
    picture: Picture | None = None


def look_up(connection: Connection, catalog_id: int, searches: Sequence[Search]) -> Catalogued:
    """What the catalog has of all that the searches name; what it lacks is missing in the answer."""
    subjects = [part.subject for search in searches for part in search.parts]
    item_ids = {subject.item_id for subject in subjects if isinstance(subject, KnownItem)}
    image_ids = {subject.image_id for subject in subjects if isinstance(subject, KnownImage)}
    items = found.items(connection, catalog_id, item_ids) if item_ids else {}
    if any(search.explain for search in searches):
        image_ids |= {pictures[0] for _, pictures in items.values() if len(pictures) == 1}
    return Catalogued(items, found.known(connection, catalog_id, list(image_ids)) if image_ids else {})


def prepare(
    services: Services, index: LiveIndex, catalogued: Catalogued, searches: Sequence[Search]
) -> list[Prepared | AkinError]:
    """The query of each search, or why it has none. Pictures and sentences are encoded side by side."""
    subjects = list(dict.fromkeys(part.subject for search in searches for part in search.parts))
    encoder = _Encoder(services, index, catalogued, strong=any(search.options.strong for search in searches))
    encoder.fetch_known(subjects)
    encoder.fetch_addresses(subjects)
    if len(subjects) == 1:
        outcomes = [encoder.outcome(subjects[0])]
    else:
        with ThreadPoolExecutor(min(ENCODED_AT_ONCE, len(subjects)), thread_name_prefix="encode") as pool:
            outcomes = list(pool.map(encoder.outcome, subjects))
    by_subject = dict(zip(subjects, outcomes, strict=True))
    return [_prepared(search, by_subject, catalogued) for search in searches]


def _prepared(
    search: Search, encoded: Mapping[Subject, list[_Encoded] | AkinError], catalogued: Catalogued
) -> Prepared | AkinError:
    total: NDArray[np.floating] | float = 0.0
    together = sum(abs(part.weight) for part in search.parts)
    for part in search.parts:
        outcome = encoded[part.subject]
        if isinstance(outcome, AkinError):
            return outcome
        unit = _unit(np.sum([one.vector for one in outcome], axis=0, dtype=np.float64))
        total = total + part.weight / together * unit
    items = [part.subject.item_id for part in search.parts if isinstance(part.subject, KnownItem)]
    images = [part.subject.image_id for part in search.parts if isinstance(part.subject, KnownImage)]
    without = frozenset(catalogued.items[item_id][0] for item_id in items), frozenset(images)
    if len(search.parts) == 1:  # of an item each picture searches by itself
        subject = search.parts[0].subject
        known = encoded[subject]
        assert not isinstance(known, AkinError)
        shown: Picture | Known | None = known[0].picture
        if shown is None:
            shown = _only_picture(subject, catalogued)
        query = Query(np.stack([one.vector for one in known]), *without)
        return Prepared(query, not isinstance(subject, Words), shown)
    if np.linalg.norm(total) < SHORTEST:
        return InvalidRequest("the parts of the query take each other away", code="query_cancels_out")
    return Prepared(Query(_unit(np.asarray(total))[None].astype(np.float32), *without), False, None)


def _only_picture(subject: Subject, catalogued: Catalogued) -> Known | None:
    """The picture of the catalog that is searched with, where it is one."""
    match subject:
        case KnownImage(image_id):
            return catalogued.images[image_id]
        case KnownItem(item_id):
            pictures = catalogued.items[item_id][1]
            return catalogued.images.get(pictures[0]) if len(pictures) == 1 else None
    return None


class _Encoder:
    """Vectors of subjects, for one request."""

    def __init__(self, services: Services, index: LiveIndex, catalogued: Catalogued, *, strong: bool) -> None:
        self._services, self._index, self._catalogued, self._strong = services, index, catalogued, strong
        self._known: dict[int, Vector] = {}
        self._fetched: dict[str, bytes | AkinError] = {}

    def fetch_known(self, subjects: Sequence[Subject]) -> None:
        """Read the vectors of all pictures that are embedded, in one call of the vector store.

        Raises:
            Unavailable: it does not answer.
        """
        wanted: list[int] = []
        for subject in subjects:
            if isinstance(subject, KnownImage) and subject.crop is None and subject.image_id in self._catalogued.images:
                wanted.append(subject.image_id)
            elif isinstance(subject, KnownItem) and subject.item_id in self._catalogued.items:
                wanted += self._catalogued.items[subject.item_id][1][:MOST_QUERIES]
        if wanted:
            self._known = vectors_of(self._services, self._index, list(dict.fromkeys(wanted)), strong=self._strong)

    def fetch_addresses(self, subjects: Sequence[Subject]) -> None:
        """Read all pictures that lie on web servers, or why one cannot be had."""
        urls = list(dict.fromkeys(subject.url for subject in subjects if isinstance(subject, Address)))
        if urls:
            self._fetched = fetch(self._services, urls)

    def outcome(self, subject: Subject) -> list[_Encoded] | AkinError:
        """The vector of a subject, of an item one for each picture; or why there is none."""
        try:
            return self._encoded(subject)
        except AkinError as error:
            return error

    def _encoded(self, subject: Subject) -> list[_Encoded]:
        match subject:
            case KnownItem(item_id):
                return self._of_item(item_id)
            case Words(text):
                return [_Encoded(self._of_text(text))]
            case Address(url, crop):
                fetched = self._fetched[url]
                if isinstance(fetched, AkinError):
                    raise fetched
                picture = Picture(fetched, crop)
            case KnownImage(image_id, crop):
                if image_id not in self._catalogued.images:
                    raise NotFound(f"there is no image {image_id} in this catalog", code="image_not_found")
                if crop is None:
                    return [_Encoded(self._of_image(image_id))]
                picture = Picture(self._stored(self._catalogued.images[image_id].sha256), crop)
            case Picture():
                picture = subject
        return [_Encoded(self._of_picture(picture), picture)]

    def _of_item(self, item_id: str) -> list[_Encoded]:
        if item_id not in self._catalogued.items:
            raise found.no_item(item_id)
        images = self._catalogued.items[item_id][1][:MOST_QUERIES]
        vectors = [_Encoded(self._known[image_id]) for image_id in images if image_id in self._known]
        if not vectors:
            raise _not_yet(f"no picture of item {item_id!r} is searchable yet")
        return vectors

    def _of_image(self, image_id: int) -> Vector:
        if image_id not in self._known:
            raise _not_yet(f"image {image_id} is not searchable yet")
        return self._known[image_id]

    def _of_picture(self, picture: Picture) -> Vector:
        # By the bytes: who knows them may know their vector, whatever catalog they were first sent to.
        name = f"{hashlib.sha256(picture.data).hexdigest()}:{_place(picture.crop)}"
        kept = self._recalled(name)
        if kept is not None:
            return kept
        pixels = self._services.decoder.preprocess(picture.data, self._manifest.preprocessing, picture.crop)
        vector = self._services.query_encoder.encode(self._index.encoder_sha256, pixels)
        if not vector.any():
            raise ImageRejected(ImageReason.UNSUPPORTED, "the encoder sees nothing in this picture")
        return self._remembered(name, vector)

    def _of_text(self, text: str) -> Vector:
        if not self._manifest.embeds_text:
            raise InvalidRequest(f"{self._index.encoder} does not embed text", code="text_unsupported")
        name = f"text:{hashlib.sha256(text.encode()).hexdigest()}"
        kept = self._recalled(name)
        if kept is not None:
            return kept
        vector = self._services.query_encoder.encode_text(self._index.encoder_sha256, text)
        if not vector.any():
            raise InvalidRequest("the encoder makes nothing of this text", code="text_unsupported")
        return self._remembered(name, vector)

    @property
    def _manifest(self) -> Manifest:
        return manifest_of(self._services, self._index)

    def _recalled(self, name: str) -> Vector | None:
        kept = recall(self._services, f"vector:{self._index.encoder_sha256}:{name}")
        return np.frombuffer(kept, np.float32) if kept is not None else None

    def _remembered(self, name: str, vector: Vector) -> Vector:
        unit = _unit(vector).astype(np.float32)
        remember_soon(self._services, f"vector:{self._index.encoder_sha256}:{name}", unit.tobytes(), REMEMBERED_SECONDS)
        return unit

    def _stored(self, sha256: str) -> bytes:
        try:
            return self._services.blobs.get(key_of(sha256))
        except NotFound as error:
            raise ImageRejected(ImageReason.MISSING, "the stored bytes of the picture are gone") from error


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def _place(crop: Crop | None) -> str:
    return "" if crop is None else f"{crop.x!r},{crop.y!r},{crop.width!r},{crop.height!r}"


def _not_yet(detail: str) -> Conflict:
    return Conflict(detail, code="not_searchable_yet")
