"""A catalog exported and restored, on the servers of one machine and on production's."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from services.backup import loading
from services.backup.export import export
from services.backup.layout import CATALOG, DONE, Kind, part_name
from services.backup.restore import Restored, abandon, restore
from services.bootstrap import create_catalog, installed
from services.catalog import catalogs, ledger
from services.catalog.models import Catalog, Embedding, Image, IndexRow, Item, Job, Key
from services.catalog.states import EmbeddingState
from services.config import Settings
from services.encoders import checkpoint
from services.encoders.shipped import shipped
from services.errors import AkinError, Conflict, NotFound
from services.storage.blobs import key_of
from services.wiring import Services
from tests.integration.conftest import Akin, _drop_collections, picture

PICTURES = 12


def quiet(_doing: str, _done: int, _total: int) -> None:
    pass


def back_up(services: Services, *, blobs: bool = True, encoder: bool = True, catalog: str = "default") -> bytes:
    file = io.BytesIO()
    export(services, catalog, file, with_blobs=blobs, with_encoder=encoder, progress=quiet)
    return file.getvalue()


def bring_back(services: Services, data: bytes, name: str | None = "again", encoder: str | None = None) -> Restored:
    return restore(services, io.BytesIO(data), name=name, encoder=encoder, progress=quiet)


def fill(akin: Akin) -> None:
    """Pictures of items, two of one, and an item that has lost its only picture."""
    for number in range(PICTURES):
        fields = {"title": f"Töpfe {number}", "attributes": json.dumps({"price": number / 3, "tags": ["a", None]})}
        akin.upload(picture(number), f"item/{number}", url=f"https://shop.example/{number}", **fields)
    akin.upload(picture(100), "item/0")
    lost = akin.upload(picture(101), "bare")
    akin.work()
    assert akin.call("DELETE", f"/v1/images/{lost['image_id']}").status_code == 204


@pytest.fixture
def filled(either_akin: Akin) -> Akin:
    """A catalog with everything in it."""
    fill(either_akin)
    return either_akin


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path) -> Iterator[Services]:
    """Another installation: a database and a blob store of its own."""
    with installed(settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})) as services:
        yield services
        _drop_collections(services)


def contents(services: Services, catalog: str) -> list[tuple[Any, ...]]:
    """All that a backup is to keep of a catalog, with the vectors."""
    with services.database.reading() as session:
        found = catalogs.by_name(session, catalog)
        collection = catalogs.live_index(session, found.id).collection
        items = session.scalars(select(Item).where(Item.catalog_id == found.id).order_by(Item.id)).all()
        images = session.scalars(
            select(Image).where(Image.catalog_id == found.id, Image.deleted_at.is_(None)).order_by(Image.id)
        ).all()
        vectors = services.vectors.fetch(collection, [image.id for image in images], strong=True)
        names = ["sha256", "format", "media_type", "width", "height", "size_bytes", "created_at"]
        names += ["origin", "etag", "last_modified"]
        return [
            *((i.item_id, i.title, i.url, i.attributes, i.created_at, i.updated_at) for i in items),
            *(
                (image.item and image.item.item_id, *(getattr(image, n) for n in names), vectors[image.id].tobytes())
                for image in images
            ),
        ]


def names(services: Services) -> list[str]:
    with services.database.reading() as session:
        return list(session.scalars(select(Catalog.name).order_by(Catalog.id)))


def rows(services: Services, catalog: str) -> dict[EmbeddingState, int]:
    with services.database.reading() as session:
        found = catalogs.by_name(session, catalog)
        counts = ledger.counts(session, catalogs.live_index(session, found.id).id)
    return {state: count for state, count in counts.items() if count}


def forget_bytes(services: Services) -> None:
    """Lose all bytes of pictures, as if the blob store were another one."""
    for blob in list(services.blobs.list("blobs")):
        services.blobs.delete(blob.key)


def hits(akin: Akin, seed: int, catalog: str) -> list[tuple[str, float]]:
    # No import waits until a search is sure to see what workers embed after a restore.
    with akin.services.database.reading() as session:
        index = catalogs.live_index(session, catalogs.by_name(session, catalog).id)
    akin.services.vectors.barrier(index.collection)
    response = akin.call(
        "POST", f"/v1/search?catalog={catalog}", data={"image": (io.BytesIO(picture(seed)), "q.jpg"), "limit": "20"}
    )
    assert response.status_code == 200, response.text
    # Where a vector lies among the others may change the last digit of its score.
    return [(hit["item"]["item_id"], round(hit["score"], 5)) for hit in response.json["hits"]]


def repacked(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """A backup with members changed, or left out where None; done.json has the SHA-256 of the changed ones."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    changed = {name: new for name, old in found.items() if (new := change(name, old)) is not None}
    if DONE in changed:
        done = json.loads(changed[DONE])
        done["members"] |= {
            name: hashlib.sha256(changed[name]).hexdigest() for name in done["members"] if name in changed
        }
        changed[DONE] = json.dumps(done).encode()
    return packed(changed)


def packed(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_a_restored_catalog_equals_the_exported_one_and_needs_no_embedding(filled: Akin) -> None:
    restored = bring_back(filled.services, back_up(filled.services))
    assert (restored.items, restored.searchable, restored.waiting, restored.missing) == (
        PICTURES + 1, PICTURES + 1, 0, 0
    )  # fmt: skip
    assert contents(filled.services, "again") == contents(filled.services, "default")
    assert rows(filled.services, "again") == {EmbeddingState.INDEXED: PICTURES + 1}
    for seed in (0, 5, 100):
        assert hits(filled, seed, "again") == hits(filled, seed, "default")


def test_a_restored_catalog_takes_uploads_and_deletes(filled: Akin) -> None:
    bring_back(filled.services, back_up(filled.services))
    form = {"image": (io.BytesIO(picture(500)), "new.jpg"), "item_id": "new"}
    assert filled.call("POST", "/v1/images?catalog=again", data=form).status_code == 202
    assert filled.call("DELETE", "/v1/items/item/3?catalog=again").status_code == 204
    filled.work()
    assert hits(filled, 500, "again")[0][0] == "new"
    assert "item/3" not in [item for item, _ in hits(filled, 3, "again")]
    assert hits(filled, 3, "default")[0][0] == "item/3"


def test_another_installation_gets_encoder_and_bytes_from_the_file(filled: Akin, elsewhere: Services) -> None:
    exported = contents(filled.services, "default")
    data = back_up(filled.services)
    restored = bring_back(elsewhere, data, name=None)
    assert (restored.name, restored.searchable, restored.missing) == ("default", PICTURES + 1, 0)
    assert contents(elsewhere, "default") == exported
    assert elsewhere.blobs.get(key_of(hashlib.sha256(picture(4)).hexdigest())) == picture(4)


def test_an_empty_catalog_gives_its_name_keys_and_jobs_to_the_restored_one(filled: Akin, elsewhere: Services) -> None:
    with elsewhere.database.transaction() as session:
        empty = catalogs.by_name(session, "default").id
        key = Key(name="shop", prefix="x", sha256="0" * 64, scopes=["search"], catalog_id=empty)
        session.add_all([key, Job(catalog_id=empty, kind="import", finished_at=func.now())])
    bring_back(elsewhere, back_up(filled.services), name=None)
    assert names(elsewhere) == [f"~{empty}", "default"]
    with elsewhere.database.reading() as session:
        restored = catalogs.by_name(session, "default").id
        assert restored != empty
        assert session.scalars(select(Key.catalog_id)).all() == [restored]
        assert session.scalars(select(Job.catalog_id)).all() == [restored]


def test_a_name_that_is_in_use_is_refused_before_anything_is_written(filled: Akin) -> None:
    data = back_up(filled.services)
    with pytest.raises(Conflict, match="'default' already") as refused:
        bring_back(filled.services, data, name=None)
    assert refused.value.code == "catalog_exists"
    assert names(filled.services) == ["default"]


def test_another_encoder_embeds_every_picture_anew(filled: Akin) -> None:
    restored = bring_back(filled.services, back_up(filled.services), encoder="conv-ae-64")
    assert (restored.encoder, restored.searchable, restored.waiting) == ("conv-ae-64@1", 0, PICTURES + 1)
    filled.work()
    assert rows(filled.services, "again") == {EmbeddingState.INDEXED: PICTURES + 1}
    found, score = hits(filled, 7, "again")[0]
    assert found == "item/7"
    assert score == pytest.approx(1, abs=1e-3)


def test_a_picture_that_was_not_embedded_yet_is_embedded_after_the_restore(filled: Akin) -> None:
    filled.upload(picture(200), "late")
    restored = bring_back(filled.services, back_up(filled.services))
    assert (restored.searchable, restored.waiting) == (PICTURES + 1, 1)
    filled.work()
    assert hits(filled, 200, "again")[0][0] == "late"


def test_without_bytes_pictures_are_found_by_their_vectors_and_counted(filled: Akin) -> None:
    data = back_up(filled.services, blobs=False)
    assert bring_back(filled.services, data, name="here").missing == 0
    forget_bytes(filled.services)
    assert bring_back(filled.services, data, name="nowhere").missing == PICTURES + 1
    assert hits(filled, 2, "nowhere")[0][0] == "item/2"


def test_bytes_in_the_backup_replace_those_that_were_lost(filled: Akin) -> None:
    data = back_up(filled.services)
    forget_bytes(filled.services)
    assert bring_back(filled.services, data).missing == 0
    with filled.services.database.reading() as session:
        living = select(Image.sha256, Image.size_bytes).where(Image.deleted_at.is_(None))
        for sha256, size in session.execute(living):
            assert len(filled.services.blobs.get(key_of(sha256))) == size


def test_bytes_that_are_gone_when_it_is_written_are_counted(filled: Akin) -> None:
    filled.services.blobs.delete(key_of(hashlib.sha256(picture(4)).hexdigest()))
    file = io.BytesIO()
    done = export(filled.services, "default", file, with_blobs=True, with_encoder=False, progress=quiet)
    assert (done.blobs, done.missing_blobs) == (PICTURES, 1)
    assert bring_back(filled.services, file.getvalue()).missing == 1


def test_an_encoder_that_is_nowhere_is_named(filled: Akin, elsewhere: Services) -> None:
    data = back_up(filled.services, encoder=False)
    unknown = {"ref": "other@3", "sha256": "0" * 64, "dimension": 256}

    def other(name: str, content: bytes) -> bytes:
        return json.dumps({**json.loads(content), "encoder": unknown}).encode() if name == CATALOG else content

    with pytest.raises(NotFound, match="other@3 is neither registered"):
        bring_back(elsewhere, repacked(data, other))
    assert names(elsewhere) == ["default"]


def test_an_encoder_of_the_same_name_with_other_weights_is_refused(filled: Akin, elsewhere: Services) -> None:
    with elsewhere.database.transaction() as session:
        encoder = catalogs.live_index(session, catalogs.by_name(session, "default").id).encoder
        encoder.sha256 = "0" * 64
    with pytest.raises(Conflict, match="registered with other weights"):
        bring_back(elsewhere, back_up(filled.services))


def test_an_empty_catalog_can_be_exported_and_restored(either_akin: Akin) -> None:
    restored = bring_back(either_akin.services, back_up(either_akin.services))
    assert (restored.items, restored.searchable, restored.missing) == (0, 0, 0)
    assert hits(either_akin, 1, "again") == []


def test_an_unknown_catalog_is_named(either_akin: Akin) -> None:
    with pytest.raises(NotFound, match="'nowhere'"):
        back_up(either_akin.services, catalog="nowhere")


def test_what_comes_during_the_export_is_not_in_it(filled: Akin) -> None:
    file = io.BytesIO()

    def disturb(doing: str, done: int, total: int) -> None:
        if doing == "items":
            filled.upload(picture(300), "meanwhile")
            filled.upload(picture(301), "item/1")
            assert filled.call("DELETE", "/v1/items/item/2").status_code == 204

    export(filled.services, "default", file, with_blobs=True, with_encoder=True, progress=disturb)
    restored = bring_back(filled.services, file.getvalue())
    assert (restored.items, restored.searchable + restored.waiting) == (PICTURES + 1, PICTURES + 1)
    assert hits(filled, 2, "again")[0][0] == "item/2"


@pytest.mark.parametrize("kept", [0, 100, 512, 5_000, -1024, -3_000])
def test_a_file_that_is_cut_off_restores_nothing(akin: Akin, kept: int) -> None:
    fill(akin)
    with pytest.raises(AkinError) as refused:
        bring_back(akin.services, back_up(akin.services)[:kept])
    assert refused.value.code == "backup_damaged"
    assert names(akin.services) == ["default"]


def test_every_flipped_bit_is_noticed_before_anything_is_restored(akin: Akin) -> None:
    fill(akin)
    data = back_up(akin.services, encoder=False)
    for offset in range(0, len(data), max(1, len(data) // 150)):
        flipped = bytearray(data)
        flipped[offset] ^= 4
        try:
            again = bring_back(akin.services, bytes(flipped), name=f"flipped-{offset}")
        except AkinError as refused:
            assert refused.code == "backup_damaged", offset
            assert names(akin.services)[-1] == "default" or names(akin.services)[-1].startswith("flipped-")
        else:  # padding, times and modes of the tar file mean nothing
            assert again.searchable == PICTURES + 1
            assert contents(akin.services, again.name) == contents(akin.services, "default")


def hostile(name: str, content: bytes = b"x", **header: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in header.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    "member",
    [
        hostile("../../outside"),
        hostile("/etc/outside"),
        hostile("items/../../outside.parquet"),
        hostile("blobs/../" + "0" * 64),
        hostile("strange"),
        hostile("catalog.json"),
        hostile("catalog.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        hostile("blobs/" + "0" * 64),
        hostile("blobs/" + "0" * 64, size=1 << 50),
        hostile("items/00000.parquet", size=1 << 40),
        hostile("images/00007.parquet"),
        hostile("done.json", size=-5),
        hostile("items/" + "n" * 300),
        hostile("pax", b"9" * 600, type=tarfile.XHDTYPE, size=1 << 45),
    ],
)
def test_a_hostile_member_is_refused_and_nothing_is_written(akin: Akin, member: bytes) -> None:
    data = back_up(akin.services)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        end = next(one.offset_data + -(-one.size // 512) * 512 for one in tar if one.name == "catalog.json")
    with pytest.raises(AkinError) as refused:
        bring_back(akin.services, data[:end] + member + data[end:])
    assert refused.value.code == "backup_damaged"
    assert names(akin.services) == ["default"]


def change_rows(kind: Kind, **values: Any) -> Callable[[str, bytes], bytes]:
    """Every row of a kind with other values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def change(name: str, content: bytes) -> bytes:
        if name != part_name(kind, 0):
            return content
        table = pq.read_table(io.BytesIO(content))
        for column, value in values.items():
            position = table.schema.names.index(column)
            field = table.schema.field(position)
            table = table.set_column(position, field, pa.array([value] * len(table), field.type))
        file = io.BytesIO()
        pq.write_table(table, file)
        return file.getvalue()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_rows(Kind.IMAGES, sha256="../../../etc/passwd"), "sha256"),
        (change_rows(Kind.IMAGES, media_type="text/html"), "media_type"),
        (change_rows(Kind.IMAGES, width=0), "width"),
        (change_rows(Kind.IMAGES, size_bytes=-1), "size_bytes"),
        (change_rows(Kind.IMAGES, origin="a\x00b"), "NUL"),
        (change_rows(Kind.IMAGES, vector=[float("nan")] * 256), "not finite"),
        (change_rows(Kind.IMAGES, vector=[0.0] * 256), "zero"),
        (change_rows(Kind.ITEMS, item_id="a/../b"), "item_id"),
        (change_rows(Kind.ITEMS, attributes="[1]"), "JSON object"),
        (change_rows(Kind.ITEMS, attributes='{"a": NaN}'), "NaN"),
        (change_rows(Kind.ITEMS, title="x" * 3000), "title"),
        (lambda name, content: b"PAR1" + content if name.startswith("items/") else content, "no Parquet file"),
        (lambda name, content: None if name == DONE else content, "cut off"),
        (lambda name, content: None if name.startswith("images/") else content, "differ"),
        (lambda name, content: b"{}" if name == "catalog.json" else content, "catalog.json"),
        (lambda name, content: None if name.startswith("encoder/weights") else content, "differ"),
    ],
)
def test_rows_that_no_request_could_have_made_are_refused(
    akin: Akin, change: Callable[[str, bytes], bytes | None], said: str
) -> None:
    fill(akin)
    data = back_up(akin.services)
    changed = repacked(data, change)
    with pytest.raises(AkinError, match=said) as refused:
        bring_back(akin.services, changed)
    assert refused.value.code == "backup_damaged"
    assert names(akin.services) == ["default"]


def test_an_interrupted_restore_is_out_of_sight_and_goes_on(filled: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    services = filled.services
    data = back_up(services)
    upsert = services.vectors.upsert
    monkeypatch.setattr(loading, "image_batches", in_pieces(loading.image_batches, 4))
    calls = iter(range(100))

    def dying(collection: str, ids: list[int], vectors: Any, facets: Any) -> None:
        upsert(collection, ids, vectors, facets)
        if next(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(services.vectors, "upsert", dying)
    with pytest.raises(KeyboardInterrupt):
        bring_back(services, data)
    with services.database.reading() as session, pytest.raises(NotFound):
        catalogs.by_name(session, "again")
    filled.work()  # takes nothing of it
    with services.database.reading() as session:
        hidden = session.scalars(select(Catalog).where(Catalog.name.like("restoring/%"))).one()
        assert hidden.deleted_at is not None
        counts = ledger.counts(session, hidden.live_index_id or 0)
        assert (counts[EmbeddingState.INDEXED], counts[EmbeddingState.FAILED]) == (4, 4)
    restored = bring_back(services, data)
    assert (restored.searchable, restored.waiting) == (PICTURES + 1, 0)
    assert names(services) == ["default", "again"]
    assert contents(services, "again") == contents(services, "default")


def in_pieces(batches: Any, size: int) -> Any:
    def smaller(*arguments: Any) -> Iterator[Any]:
        for batch in batches(*arguments):
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)

    return smaller


def test_an_interrupted_restore_can_be_abandoned(filled: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    services = filled.services
    data = back_up(services)
    monkeypatch.setattr(services.vectors, "barrier", stop)
    with pytest.raises(KeyboardInterrupt):
        bring_back(services, data)
    with services.database.reading() as session:
        left = session.scalars(
            select(IndexRow.collection)
            .join(Catalog, Catalog.id == IndexRow.catalog_id)
            .where(Catalog.name != "default")
        ).one()
    assert services.vectors.exists(left)
    abandon(services, io.BytesIO(data), name="again", encoder=None)
    assert names(services) == ["default"]
    assert not services.vectors.exists(left)
    with services.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Embedding)) == session.scalar(
            select(func.count()).select_from(Image)
        )
    with pytest.raises(NotFound):
        abandon(services, io.BytesIO(data), name="again", encoder=None)


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_name_that_is_taken_while_it_is_restored_is_refused_at_the_end(filled: Akin) -> None:
    services = filled.services
    data = back_up(services)

    def meanwhile(doing: str, done: int, total: int) -> None:
        if doing == "restoring" and done == total - 1024:  # the end of the archive is two empty blocks
            with services.database.transaction() as session:
                taken = create_catalog(session, "again", services.settings.default_encoder)
                session.add(Item(catalog_id=taken.id, item_id="first"))

    with pytest.raises(Conflict, match="not empty"):
        restore(services, io.BytesIO(data), name="again", encoder=None, progress=meanwhile)
    assert bring_back(services, data, name="another").searchable == PICTURES + 1


def test_tar_lists_a_backup_and_its_encoder_can_be_registered(akin: Akin, tmp_path: Path) -> None:
    fill(akin)
    with tarfile.open(fileobj=io.BytesIO(back_up(akin.services))) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert checkpoint.read(tmp_path / "out" / "encoder").manifest.ref in [one.ref for one in shipped_refs()]
    blobs = sorted((tmp_path / "out" / "blobs").iterdir())
    assert [hashlib.sha256(blob.read_bytes()).hexdigest() for blob in blobs] == [blob.name for blob in blobs]


def shipped_refs() -> list[Any]:
    return [checkpoint.read(one.weights_path.parent).manifest for one in shipped()]
