"""Duplicates: found whatever their number, divided where they are none, resumed, cancelled, replaced, listed."""

from __future__ import annotations

import io
import json
import threading
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import func, insert, select, update

from services import duplicate_steps, duplicates, housekeeping
from services.catalog import catalogs, jobs
from services.catalog.database import now
from services.catalog.models import DuplicateImage, Image, IndexRow, Item, Job
from services.catalog.states import IndexState
from services.cli.duplicates import duplicates as command
from services.client import AkinClient
from services.clusters import Floats
from services.evaluation.alterations import ALTERATIONS
from services.images.decode import Limits, decode
from services.samples import write_samples
from tests.integration.conftest import Akin, picture, served


def live(akin: Akin) -> IndexRow:
    with akin.services.database.reading() as session:
        return catalogs.live_index(session, akin.catalog_id)


def execute(akin: Akin, *statements: Any) -> None:
    with akin.services.database.transaction() as session:
        for statement in statements:
            session.execute(statement)


def add(
    akin: Akin, vectors: Floats | None, count: int = 0, *, sha256: str | None = None, item: str | None = None
) -> list[int]:
    """Images in the catalog with these vectors, or without any, as if they had been uploaded and embedded."""
    index, catalog_id = live(akin), akin.catalog_id
    count = len(vectors) if vectors is not None else count
    with akin.services.database.transaction() as session:
        last = session.scalar(select(func.max(Image.id))) or 0
        ids = list(range(last + 1, last + count + 1))
        items = {image_id: item or f"item-{image_id}" for image_id in ids}
        for item_id in dict.fromkeys(items.values()):
            session.add(Item(catalog_id=catalog_id, item_id=item_id, attributes={}))
        session.flush()
        keys = {row.item_id: row.id for row in session.execute(select(Item.item_id, Item.id))}
        facts = {"format": "JPEG", "media_type": "image/jpeg", "width": 8, "height": 8, "created_at": now()}
        session.execute(
            insert(Image),
            [
                {
                    "id": one,
                    "catalog_id": catalog_id,
                    "item_pk": keys[items[one]],
                    "sha256": sha256 or f"{one:064x}",
                    "size_bytes": 1000 + one,
                    **facts,
                }
                for one in ids
            ],
        )
    if vectors is not None:
        akin.services.vectors.create(index.collection, index.encoder.dimension)
        for start in range(0, count, 5000):
            part = slice(start, start + 5000)
            akin.services.vectors.upsert(index.collection, ids[part], vectors[part])
        akin.services.vectors.barrier(index.collection)
    return ids


def at_degrees(akin: Akin, *degrees: float, plane: int = 0) -> Floats:
    """Unit vectors in a plane of the live index's space, at these angles."""
    vectors = np.zeros((len(degrees), live(akin).encoder.dimension), np.float32)
    angles = np.radians(degrees)
    vectors[:, 2 * plane], vectors[:, 2 * plane + 1] = np.cos(angles), np.sin(angles)
    return vectors


def scattered(akin: Akin, count: int, seed: int = 0) -> Floats:
    """Vectors of which no two are alike."""
    return np.random.default_rng(seed).standard_normal((count, live(akin).encoder.dimension)).astype(np.float32)


def around(akin: Akin, count: int, seed: int = 0, spread: float = 0.02) -> Floats:
    """Vectors that are all near one."""
    rng = np.random.default_rng([seed, 99])
    centre = rng.standard_normal(live(akin).encoder.dimension)
    return (centre / np.linalg.norm(centre) + spread * rng.standard_normal((count, len(centre))) / 14).astype(
        np.float32
    )


def run(akin: Akin, threshold: float | None = None) -> Any:
    """A search for duplicates from its start to its end, as the API shows it."""
    job_id = duplicates.start(akin.services, akin.catalog_id, threshold)
    duplicates.advance(akin.services, 120)
    return akin.get(f"/v1/jobs/{job_id}")


def found(akin: Akin, query: str = "limit=200") -> list[set[int]]:
    """The clusters that the API lists, as the ids of their pictures, by the first id."""
    data = akin.get(f"/v1/duplicates?{query}")["data"]
    return sorted(({one["image"]["id"] for one in cluster["images"]} for cluster in data), key=min)


def rows(akin: Akin) -> int:
    with akin.services.database.reading() as session:
        return session.scalar(select(func.count()).select_from(DuplicateImage)) or 0


# -- what belongs together


def test_the_same_bytes_belong_together_whatever_the_vectors_say(either_akin: Akin) -> None:
    akin = either_akin
    apart = add(akin, scattered(akin, 4), sha256="a" * 64)
    blind = add(akin, None, 3, sha256="b" * 64)
    half = add(akin, scattered(akin, 2, seed=1), sha256="c" * 64)
    half += add(akin, None, 1, sha256="c" * 64)
    add(akin, scattered(akin, 20, seed=2))

    job = run(akin)

    assert found(akin) == [set(apart), set(blind), set(half)]
    assert job["state"] == "finished"
    assert job["result"]["clusters"] == 3 and job["result"]["images"] == 10
    scores = [one["score"] for cluster in akin.get("/v1/duplicates")["data"] for one in cluster["images"]]
    assert scores == [1.0] * 10


def test_sixty_copies_are_one_cluster_however_few_neighbours_are_asked_for(either_akin: Akin) -> None:
    akin = either_akin
    add(akin, scattered(akin, 50))
    copies = add(akin, around(akin, 60))
    others = add(akin, around(akin, 3, seed=1))

    job = run(akin)

    listed = akin.get("/v1/duplicates")
    assert [cluster["count"] for cluster in listed["data"]] == [60, 3]
    assert [cluster["id"] for cluster in listed["data"]] == [copies[0], others[0]]
    assert job["done"] == job["total"] == 113 + 63


def test_two_dense_groups_that_only_their_edges_connect_are_found_in_full(akin: Akin) -> None:
    """Each of thirty has its nearest twenty in its own half; only further neighbours lead to the other."""
    near, far = at_degrees(akin, *np.linspace(0, 1, 30)), at_degrees(akin, *np.linspace(8, 9, 30))
    ids = add(akin, np.concatenate([near, far]))

    run(akin, float(np.cos(np.radians(10))))

    assert [cluster["count"] for cluster in akin.get("/v1/duplicates")["data"]] == [len(ids)]


def test_what_only_a_chain_connects_is_divided_around_centres(akin: Akin) -> None:
    threshold = float(np.cos(np.radians(10)))
    three = add(akin, at_degrees(akin, 0, 9, 18))
    five = add(akin, at_degrees(akin, 0, 9, 18, 27, 36, plane=1))
    four = add(akin, at_degrees(akin, 0, 9, 18, 27, plane=2))

    run(akin, threshold)

    assert found(akin) == [set(three), set(five[:3]), set(five[3:]), set(four[:3])]


def test_a_component_larger_than_a_piece_is_divided_like_a_small_one(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicate_steps, "DIVIDED", 10)
    pairs = add(akin, at_degrees(akin, 0, 1, plane=1))
    copies = add(akin, around(akin, 35))
    same = add(akin, around(akin, 35)[:5], sha256="a" * 64)
    last = add(akin, at_degrees(akin, 0, 1, plane=2))

    job = run(akin)

    listed = akin.get("/v1/duplicates")["data"]
    assert [(cluster["id"], cluster["count"]) for cluster in listed] == [
        (copies[0], len(copies + same)),
        (pairs[0], 2),
        (last[0], 2),
    ]
    assert job["done"] == job["total"]


def test_drawn_pictures_and_their_altered_copies(akin: Akin, tmp_path: Path) -> None:
    """What comes back compressed again or half as large is found; of what is found nearly all is right."""
    originals = [path.read_bytes() for path in write_samples(tmp_path, 40)]
    families = {f"{number}": data for number, data in enumerate(originals)}
    for number, data in enumerate(originals[::5]):
        for alteration in ALTERATIONS[:2]:
            families[f"{5 * number} {alteration.name}"] = altered(data, alteration)
    akin.upload_many({f"{name}.jpg": data for name, data in families.items()})
    akin.work()

    run(akin, 0.95)

    pairs = {
        frozenset(pair)
        for cluster in akin.get("/v1/duplicates?limit=200")["data"]
        for pair in combinations([one["image"]["item_id"] for one in cluster["images"]], 2)
    }
    right = {pair for pair in pairs if len({name.split()[0] for name in pair}) == 1}
    assert len(right) >= 0.9 * 8 * 3
    assert len(right) >= 0.95 * len(pairs)


def altered(data: bytes, alteration: Any) -> bytes:
    changed = alteration.apply(decode(data, Limits(2**24, 2**26)), np.random.default_rng(1))
    file = io.BytesIO()
    changed.save(file, "JPEG", quality=alteration.quality)
    return file.getvalue()


# -- the job


def mixed(akin: Akin) -> None:
    """A catalog with clusters of several kinds, over several pieces."""
    add(akin, scattered(akin, 150))
    add(akin, around(akin, 40))
    add(akin, scattered(akin, 5, seed=3), sha256="a" * 64)
    add(akin, at_degrees(akin, *range(0, 40, 4)))
    add(akin, around(akin, 40)[:15])
    add(akin, scattered(akin, 3, seed=4), sha256="a" * 64)


def test_a_job_that_is_stopped_after_every_piece_comes_to_the_same(akin: Akin) -> None:
    mixed(akin)
    run(akin)
    expected, lines = found(akin), rows(akin)
    job_id = duplicates.start(akin.services, akin.catalog_id)

    shares, over = [], False
    while not over:
        duplicates.advance(akin.services, 0)
        with akin.services.database.reading() as session:
            job = jobs.get(session, job_id)
            shares.append((job.cursor["done"], job.total))
            over = job.finished_at is not None

    assert found(akin, f"limit=200&job={job_id}") == expected
    assert len(shares) > 4 and shares == sorted(shares)
    assert all(done <= total for done, total in shares) and len(set(shares[-1])) == 1
    housekeeping.sweep(akin.services)
    assert rows(akin) == lines


def test_a_worker_that_was_taken_for_dead_changes_nothing_any_more(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed(akin)
    run(akin)
    expected, lines = found(akin), rows(akin)
    job_id = duplicates.start(akin.services, akin.catalog_id)
    search, overtaken = akin.services.vectors.search, []

    def slow(*args: Any, **kwargs: Any) -> Any:
        hits = search(*args, **kwargs)
        if not overtaken:
            overtaken.append(True)
            execute(akin, update(Job).where(Job.id == job_id).values(served_at=now() - timedelta(minutes=5)))
            duplicates.advance(akin.services, 120)
        return hits

    monkeypatch.setattr(akin.services.vectors, "search", slow)
    duplicates.advance(akin.services, 120)

    assert akin.get(f"/v1/jobs/{job_id}")["state"] == "finished"
    assert found(akin) == expected
    housekeeping.sweep(akin.services)
    assert rows(akin) == lines


def test_a_worker_that_is_killed_is_waited_for_then_another_goes_on(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed(akin)
    job_id = duplicates.start(akin.services, akin.catalog_id)
    duplicates.advance(akin.services, 0)
    execute(akin, update(Job).where(Job.id == job_id).values(served_at=now()))  # as a killed worker leaves it

    duplicates.advance(akin.services, 120)
    waiting = akin.get(f"/v1/jobs/{job_id}")["done"]
    execute(akin, update(Job).where(Job.id == job_id).values(served_at=now() - timedelta(minutes=5)))
    duplicates.advance(akin.services, 120)

    assert waiting == duplicate_steps.COMPARED
    with akin.services.database.reading() as session:
        assert jobs.get(session, job_id).state == "finished"


def test_a_cancelled_job_stops_and_leaves_nothing(akin: Akin) -> None:
    mixed(akin)
    job_id = akin.call("POST", "/v1/duplicates", json={}).json["job_id"]
    duplicates.advance(akin.services, 0)
    duplicates.advance(akin.services, 0)

    cancelled = akin.call("POST", f"/v1/jobs/{job_id}/cancel")
    duplicates.advance(akin.services, 120)
    asked = akin.call("GET", f"/v1/duplicates?job={job_id}")
    before = rows(akin)
    housekeeping.sweep(akin.services)

    assert (cancelled.status_code, cancelled.json["state"]) == (200, "cancelled")
    assert (asked.status_code, asked.json["code"]) == (409, "job_without_result")
    assert before > 0 and rows(akin) == 0
    assert akin.call("GET", "/v1/duplicates").json["code"] == "job_not_found"


def test_a_new_job_replaces_what_was_found_when_it_has_finished(akin: Akin) -> None:
    pair = add(akin, at_degrees(akin, 0, 1))
    first = run(akin)
    more = add(akin, at_degrees(akin, 0, 1, plane=1))
    second = duplicates.start(akin.services, akin.catalog_id)
    meanwhile = found(akin)
    duplicates.advance(akin.services, 120)
    housekeeping.sweep(akin.services)

    assert meanwhile == [set(pair)]
    assert found(akin) == [set(pair), set(more)]
    assert rows(akin) == 4
    old = akin.call("GET", f"/v1/duplicates?job={first['id']}")
    assert (old.status_code, old.json["code"]) == (409, "job_without_result")
    assert akin.get(f"/v1/duplicates?job={second}")["job_id"] == second


def test_what_was_found_goes_with_its_job(akin: Akin) -> None:
    add(akin, at_degrees(akin, 0, 1))
    job = run(akin)
    long_ago = now() - timedelta(days=akin.services.settings.job_history_days + 1)
    execute(akin, update(Job).where(Job.id == job["id"]).values(finished_at=long_ago))

    housekeeping.sweep(akin.services)

    assert rows(akin) == 0
    assert akin.call("GET", f"/v1/jobs/{job['id']}").status_code == 404


def test_pictures_uploaded_or_deleted_meanwhile_are_left_out(akin: Akin) -> None:
    add(akin, scattered(akin, 100))  # a piece
    copies = add(akin, around(akin, 4))
    duplicates.start(akin.services, akin.catalog_id)
    duplicates.advance(akin.services, 0)
    add(akin, around(akin, 5)[4:])
    assert akin.call("DELETE", f"/v1/images/{copies[0]}").status_code == 204
    duplicates.advance(akin.services, 120)

    assert found(akin) == [set(copies[1:])]


def test_an_index_that_is_retired_meanwhile_fails_the_job(akin: Akin) -> None:
    mixed(akin)
    job_id = duplicates.start(akin.services, akin.catalog_id)
    duplicates.advance(akin.services, 0)
    execute(akin, update(IndexRow).values(state=IndexState.RETIRED))
    duplicates.advance(akin.services, 120)
    execute(akin, update(IndexRow).values(state=IndexState.LIVE))

    job = akin.get(f"/v1/jobs/{job_id}")
    assert (job["state"], job["error"]["code"]) == ("failed", "index_retired")


def test_an_empty_catalog_has_no_duplicates(either_akin: Akin) -> None:
    assert run(either_akin)["result"] == {
        "clusters": 0,
        "images": 0,
        "wasted_bytes": 0,
        "summary": "0 clusters, 0 pictures, 0 bytes could go",
    }
    assert found(either_akin) == []


def test_of_many_that_start_one_at_once_one_does(either_akin: Akin) -> None:
    akin = either_akin
    outcomes: list[str] = []

    def begin() -> None:
        try:
            outcomes.append(duplicates.start(akin.services, akin.catalog_id))
        except Exception as error:  # noqa: BLE001
            outcomes.append(getattr(error, "code", repr(error)))

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcomes.count("duplicates_running") == 5


# -- what the API lists


def test_deleted_pictures_are_left_out_and_clusters_of_one_are_not_shown(akin: Akin) -> None:
    three, two = add(akin, at_degrees(akin, 0, 1, 2)), add(akin, at_degrees(akin, 0, 1, plane=1))
    run(akin)
    for image_id in (three[2], two[0]):
        assert akin.call("DELETE", f"/v1/images/{image_id}").status_code == 204

    listed = akin.get("/v1/duplicates")

    assert [cluster["count"] for cluster in listed["data"]] == [2]
    assert (listed["clusters"], listed["count"]) == (1, 2)
    # Of the two that are left the larger one stays.
    assert listed["wasted_bytes"] == listed["data"][0]["wasted_bytes"] == 1000 + three[0]
    assert [one["image"]["id"] for one in listed["data"][0]["images"]] == [three[1], three[0]]


def test_pages_show_each_cluster_once_though_pictures_are_deleted_between_them(akin: Akin) -> None:
    groups = [
        add(akin, at_degrees(akin, *np.arange(size) / 10, plane=plane)) for plane, size in enumerate([2, 5, 3, 4, 3])
    ]
    run(akin)

    seen, cursor = [], None
    while True:
        page = akin.get("/v1/duplicates?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        seen += [cluster["id"] for cluster in page["data"]]
        if not cursor:  # the largest, shown already, becomes the smallest
            for image_id in groups[1][:3]:
                akin.call("DELETE", f"/v1/images/{image_id}")
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == [groups[position][0] for position in (1, 3, 2, 4, 0)]


def test_a_page_of_what_was_replaced_is_refused(akin: Akin) -> None:
    add(akin, at_degrees(akin, 0, 1))
    add(akin, at_degrees(akin, 0, 1, plane=1))
    run(akin)
    cursor = akin.get("/v1/duplicates?limit=1")["next_cursor"]
    run(akin)

    assert akin.call("GET", f"/v1/duplicates?cursor={cursor}").json["code"] == "job_without_result"


def test_clusters_within_one_item_can_be_hidden(akin: Akin) -> None:
    add(akin, at_degrees(akin, 0, 1), item="shoe")
    between = add(akin, at_degrees(akin, 0, 1, 2, plane=1))
    run(akin)

    assert len(found(akin)) == 2
    assert found(akin, "across_items=true") == [set(between)]
    assert akin.get("/v1/duplicates?across_items=true")["count"] == 3


def test_a_large_cluster_lists_fifty_pictures_and_counts_all(akin: Akin) -> None:
    ids = add(akin, scattered(akin, 1), sha256="a" * 64) + add(akin, None, 79, sha256="a" * 64)
    run(akin)

    (cluster,) = akin.get("/v1/duplicates")["data"]

    assert cluster["count"] == 80
    assert [one["image"]["id"] for one in cluster["images"]] == ids[:-51:-1]
    assert cluster["wasted_bytes"] == sum(1000 + one for one in ids[:-1])


def test_every_picture_comes_with_its_item_and_score(akin: Akin) -> None:
    data = picture(1)
    akin.upload(data, "a", title="A")
    akin.upload(data, "b", title="B")
    akin.work()
    job = run(akin)

    listed = akin.get("/v1/duplicates")

    assert (listed["job_id"], listed["encoder"]) == (job["id"], live(akin).encoder.ref)
    (cluster,) = listed["data"]
    assert {one["item"]["title"] for one in cluster["images"]} == {"A", "B"}
    assert [one["score"] for one in cluster["images"]] == [1.0, 1.0]
    assert cluster["images"][0]["image"]["links"]["thumbnail"].startswith("/v1/images/")
    assert cluster["wasted_bytes"] == len(data)


def test_the_threshold_is_the_encoders_unless_given_and_within_bounds(akin: Akin) -> None:
    for threshold in (0.49, 1.01, "alike"):
        assert akin.call("POST", "/v1/duplicates", json={"threshold": threshold}).status_code == 422
    given = run(akin, 0.75)
    default = run(akin)
    assert given["source"]["threshold"] == 0.75
    assert 0.5 <= default["source"]["threshold"] <= 1


def test_who_may_search_may_read_what_was_found_and_who_may_upload_may_look_for_it(akin: Akin) -> None:
    def key(scope: str) -> str:
        created = akin.call("POST", "/v1/admin/keys", json={"name": scope, "scopes": [scope]})
        return str(created.json["key"])

    run(akin)
    reader, writer = key("search"), key("ingest")
    assert akin.call("GET", "/v1/duplicates", key=reader).status_code == 200
    assert akin.call("POST", "/v1/duplicates", json={}, key=reader).status_code == 403
    assert akin.call("POST", "/v1/duplicates", json={}, key=writer).status_code == 202
    assert akin.call("POST", "/v1/duplicates", json={}, key=writer).json["code"] == "duplicates_running"


def test_jobs_of_other_kinds_and_catalogs_are_refused(akin: Akin) -> None:
    job_id = akin.upload(picture(1), "a")["job_id"]
    akin.work()

    assert akin.call("GET", "/v1/duplicates").json["code"] == "job_not_found"
    assert akin.call("GET", f"/v1/duplicates?job={job_id}").json["code"] == "wrong_kind_of_job"
    assert akin.call("GET", f"/v1/duplicates?job={'0' * 32}").json["code"] == "job_not_found"
    assert akin.call("GET", "/v1/duplicates?cursor=1.2.3").status_code == 422


# -- the command


def test_the_command_lists_clusters_and_its_last_line_is_the_summary(akin: Akin) -> None:
    add(akin, at_degrees(akin, 0, 1, 2), item="[shoe]")
    add(akin, at_degrees(akin, 0, 1, plane=1))
    with served(akin, duplicates.advance) as url:

        def invoke(*options: str) -> Any:
            return CliRunner().invoke(command, [*options, "--url", url, "--key", akin.key])

        nothing, fresh, one = invoke("--last"), invoke("--threshold", "0.95"), invoke("--last", "--limit", "1")
        across, as_json = invoke("--last", "--across-items"), invoke("--last", "--json")
        refused = invoke("--last", "--threshold", "0.9")

    assert (nothing.exit_code, refused.exit_code) == (1, 2)
    assert "job_not_found" in nothing.stderr
    summary = "2 clusters, 5 pictures, 3,007 bytes could go"
    assert fresh.exit_code == 0 and fresh.stdout.splitlines()[-1] == summary
    ids = [picture["image"]["id"] for cluster in json.loads(as_json.stdout)["data"] for picture in cluster["images"]]
    names = [f"{item} #{one} (1.000)" for item, one in zip(["[shoe]"] * 3 + ["item-5", "item-4"], ids, strict=True)]
    assert ", ".join(names[:3]) in fresh.stdout
    assert ", ".join(names[3:]) in fresh.stdout
    assert one.stdout.splitlines()[-2:] == ["and 1 smaller clusters (--limit)", summary]
    assert across.stdout.splitlines()[-1] == "1 clusters, 2 pictures, 1,004 bytes could go"
    document = json.loads(as_json.stdout)
    assert (document["clusters"], document["threshold"], len(document["data"])) == (2, 0.95, 2)


def test_the_client_reads_as_many_clusters_as_are_asked_for_page_by_page(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plane in range(5):
        add(akin, at_degrees(akin, 0, 1, plane=plane))
    job_id = run(akin)["id"]
    monkeypatch.setattr("services.client.PAGE", 2)
    with served(akin, duplicates.advance) as url, AkinClient(url, akin.key) as client:
        some = client.duplicates(job_id, limit=3)
        every = client.duplicates(limit=100)

    assert [len(some.data), len(every.data), every.clusters] == [3, 5, 5]
    assert len({cluster.id for cluster in every.data}) == 5
