"""Searches as their callers meet them: queries of several parts, filters, pages, batches and explanations."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import redis
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image as Pillow
from werkzeug.serving import make_server

from services import facets
from services.answers import Box, SearchFailure, SearchResult
from services.api.app import create_app
from services.api.schemas import Schema
from services.api.schemas_search import BatchOut, SearchOut
from services.api.schemas_widget import SimilarOut
from services.catalog import catalogs, items
from services.catalog.items import ItemFields
from services.catalog.items import Picture as Bytes
from services.catalog.models import Item
from services.cli import main
from services.client import AkinClient
from services.config import Settings
from services.encode_call import QueryEncoder
from services.errors import InvalidRequest
from services.queries import Part
from services.search import filtering, neighbours, ranked
from services.wiring import build
from tests.integration.conftest import Akin, _akin, picture
from tests.servers import wait_until

SHOP = 24


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str, milvus_lite_uri: str) -> Iterator[Akin]:
    """A catalog that the tests only read: items of one picture, one of three, and two copies of the third."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("shop"),
        redis_url=redis_url,
        milvus_uri=milvus_lite_uri,
        decode_processes=1,
        fetch_allow="127.0.0.1",
    )
    for akin in _akin(settings):
        for seed in range(SHOP):
            attributes = {"price": seed, "brand": "even" if seed % 2 == 0 else "odd", "in_stock": seed < 12}
            akin.upload(picture(seed), f"item-{seed}", attributes=json.dumps(attributes))
        for number in range(3):
            akin.upload(picture(100 + number), "many")
        akin.upload(picture(3), "twin")
        akin.upload(picture(3, kind="PNG"), "near-twin")
        akin.work()
        yield akin


@pytest.fixture(scope="module")
def address(shop: Akin) -> Iterator[str]:
    """Where the shop's API answers on loopback."""
    server = make_server("127.0.0.1", 0, shop.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def search(akin: Akin, **body: Any) -> Any:
    response = akin.call("POST", "/v1/search", json=body)
    assert response.status_code == 200, response.text
    return response.json


def refused(akin: Akin, status: int, code: str, path: str = "/v1/search", **body: Any) -> Any:
    response = akin.call("POST", path, json=body)
    assert (response.status_code, response.json["code"]) == (status, code), response.text
    return response.json


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def names(answer: Any) -> list[str]:
    return [hit["item"]["item_id"] for hit in answer["hits"]]


def image_id(akin: Akin, item_id: str) -> int:
    return int(akin.get(f"/v1/items/{item_id}")["images"][0]["id"])


def vectors(akin: Akin) -> dict[int, NDArray[np.float32]]:
    """The unit vectors of all pictures."""
    with akin.services.database.reading() as session:
        collection = catalogs.live_index(session, akin.catalog_id).collection
        ids = [image.id for image in items.image_page(session, akin.catalog_id, after=0, limit=1000)]
    found = akin.services.vectors.fetch(collection, ids)
    return {one: vector / np.linalg.norm(vector) for one, vector in found.items()}


@contextmanager
def web_server(files: dict[str, bytes]) -> Iterator[str]:
    """A server of files on loopback; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class SlowServer:
    """A web server that answers, always with one picture, only once it is released."""

    def __init__(self, data: bytes) -> None:
        self.asked: list[str] = []
        asked, released = self.asked, threading.Event()
        self.release = released.set

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                released.wait(30)
                with suppress(ConnectionError):
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_arguments: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def configured(akin: Akin, **settings: Any) -> Iterator[Akin]:
    """Another API process on the same data, with other settings."""
    services = build(akin.services.settings.model_copy(update=settings))
    try:
        yield Akin(services, create_app(services).test_client(), akin.key)
    finally:
        services.close()


def test_slow_servers_hold_half_of_the_threads_and_further_searches_by_address_are_refused(shop: Akin) -> None:
    with (
        configured(shop, api_threads=4, query_deadline=20) as akin,
        SlowServer(picture(5)) as slow,
        ThreadPoolExecutor(2) as pool,
    ):
        urls = [f"{slow.url}/{number}" for number in range(4)]
        # A search with several addresses is one that waits.
        held = [pool.submit(search, akin, query=[{"url": url} for url in asked]) for asked in (urls[:3], urls[3:])]
        wait_until(lambda: len(slow.asked) == 4, "both wait for the server", 10)
        began = time.monotonic()
        response = akin.call("POST", "/v1/search", json={"query": [{"url": f"{slow.url}/more"}]})
        of_several = akin.call(
            "POST",
            "/v1/search/batch",
            json={"searches": [{"query": [{"url": f"{slow.url}/more"}]}, {"query": [{"item_id": "item-1"}]}]},
        )
        took = time.monotonic() - began
        slow.release()

        assert (response.status_code, response.json["code"]) == (429, "overloaded")
        assert int(response.headers["Retry-After"]) > 0
        refused, answered = of_several.json["results"]
        assert (refused["error"]["status"], len(answered["hits"])) == (429, 20)
        assert took < 5
        assert [names(one.result())[0] for one in held] == ["item-5"] * 2
        assert names(search(akin, query=[{"url": f"{slow.url}/again"}]))[0] == "item-5"


def test_an_address_is_waited_for_no_longer_than_a_search_may_take(shop: Akin) -> None:
    with configured(shop, query_deadline=0.5) as akin, SlowServer(picture(5)) as slow:
        began = time.monotonic()
        refused(akin, 422, "fetch_failed", query=[{"url": f"{slow.url}/a"}, {"url": f"{slow.url}/b"}])
        assert time.monotonic() - began < 5


def test_a_picture_is_searched_with_by_its_bytes_its_address_its_id_and_its_item(shop: Akin) -> None:
    data, own = picture(5), image_id(shop, "item-5")
    by_bytes = search(shop, image=encoded(data))
    with web_server({"/5.jpg": data}) as url:
        by_address = search(shop, query=[{"url": f"{url}/5.jpg"}])
    by_id = search(shop, query=[{"image_id": own}])
    by_item = search(shop, query=[{"item_id": "item-5"}])

    assert names(by_bytes)[0] == "item-5"
    assert by_bytes["hits"][0]["score"] >= 0.999
    assert names(by_address) == names(by_bytes)
    # What the catalog has is searched with, not found.
    assert (
        names(by_id)
        == names(by_item)
        == [n for n in names(search(shop, image=encoded(data), limit=21)) if n != "item-5"]
    )
    assert [hit["rank"] for hit in by_id["hits"]] == list(range(1, 21))


def test_several_parts_are_the_normalised_sum_of_weighted_unit_vectors(shop: Akin) -> None:
    there = vectors(shop)
    many = [image["id"] for image in shop.get("/v1/items/many")["images"]]
    mean = np.mean([there[one] for one in many], axis=0)
    parts = [there[image_id(shop, "item-7")], mean / np.linalg.norm(mean), there[image_id(shop, "item-9")]]
    query = np.sum([weight * vector for weight, vector in zip((1.0, 0.5, -0.7), parts, strict=True)], axis=0)
    query /= np.linalg.norm(query)
    left_out = {*many, image_id(shop, "item-9")}
    expected = sorted((-float(vector @ query), one) for one, vector in there.items() if one not in left_out)

    found = search(
        shop,
        query=[
            {"image": encoded(picture(7))},
            {"item_id": "many", "weight": 0.5},
            {"item_id": "item-9", "weight": -0.7},
        ],
        group=False,
        collapse="none",
        limit=200,
    )

    assert [hit["image"]["id"] for hit in found["hits"]] == [one for _, one in expected]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [-score for score, _ in expected], atol=1e-4)
    assert all(hit["likeness"] is None for hit in found["hits"])


def test_an_item_of_several_pictures_finds_what_is_like_any_of_them(shop: Akin) -> None:
    there = vectors(shop)
    many = [image["id"] for image in shop.get("/v1/items/many")["images"]]
    best = {one: max(float(there[own] @ vector) for own in many) for one, vector in there.items() if one not in many}

    found = search(shop, query=[{"item_id": "many"}], group=False, collapse="none", limit=200)

    assert [hit["image"]["id"] for hit in found["hits"]] == sorted(best, key=lambda one: (-best[one], one))


def test_what_is_less_wanted_moves_back(shop: Akin) -> None:
    alone = search(shop, query=[{"item_id": "item-1"}], limit=30)
    unwanted = alone["hits"][0]["item"]["item_id"]

    less = search(shop, query=[{"item_id": "item-1"}, {"item_id": unwanted, "weight": -1}], limit=30)
    more = search(shop, query=[{"item_id": "item-1"}, {"item_id": unwanted, "weight": 1}], limit=30)

    assert unwanted not in names(less) + names(more)
    assert names(less) != names(more)


def test_weights_count_beside_one_another_only(shop: Akin) -> None:
    first, second = {"item_id": "item-1"}, {"item_id": "item-2"}
    plain = search(shop, query=[{**first, "weight": 2}, {**second, "weight": -5}, {"item_id": "item-3"}])

    for scale in (1e-4, 1e-300):
        weights = (2 * scale, -5 * scale, scale)
        parts = [{"item_id": f"item-{n}", "weight": weight} for n, weight in enumerate(weights, 1)]
        assert names(search(shop, query=parts)) == names(plain)
    refused(shop, 422, "query_cancels_out", query=[{**first, "weight": 10}, {**first, "weight": -10}])
    assert search(shop, query=[{**first, "weight": 5e-324}, {**second, "weight": 5e-324}])["hits"]


def test_a_query_that_says_nothing_is_refused_with_its_reason(shop: Akin) -> None:
    own = {"item_id": "item-1"}
    refused(shop, 422, "only_negative_weights", query=[{**own, "weight": -1}])
    refused(shop, 422, "query_cancels_out", query=[own, {"image_id": image_id(shop, "item-1"), "weight": -1}])
    refused(shop, 422, "text_unsupported", query=[{"text": "a red shoe"}])
    refused(shop, 404, "item_not_found", query=[{"item_id": "none"}])
    refused(shop, 404, "image_not_found", query=[{"image_id": 99_999}])
    refused(shop, 422, "image_unrecognised", query=[{"image": encoded(b"no picture")}, own])
    refused(shop, 422, "invalid_filter", image=encoded(picture(1)), filter={"field": "price"})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": []},
        {"query": [{}]},
        {"query": [{"item_id": "a", "image_id": 1}]},
        {"query": [{"item_id": "a"}] * 9},
        {"query": [{"item_id": "a", "weight": 0}]},
        {"query": [{"item_id": "a", "weight": 11}]},
        {"query": [{"item_id": "a", "crop": {"x": 0, "y": 0, "width": 1, "height": 1}}]},
        {"query": [{"image_id": 1, "crop": {"x": 0.5, "y": 0, "width": 0.6, "height": 1}}]},
        {"query": [{"image_id": 1, "crop": {"x": 0, "y": 0, "width": 0, "height": 1}}]},
        {"query": [{"image_id": 0}]},
        {"query": [{"url": "ftp://example.com/a.jpg"}]},
        {"query": [{"text": ""}]},
        {"query": [{"item_id": "a"}], "weight": 2},
        {"query": [{"item_id": "a"}], "diversity": 1.5},
        {"query": [{"item_id": "a"}], "collapse": "all"},
        {"query": [{"item_id": "a"}], "consistency": "none"},
        {"cursor": "x", "query": [{"item_id": "a"}]},
        {"cursor": "x", "paged": True},
    ],
)
def test_what_is_no_search_is_refused(shop: Akin, body: Any) -> None:
    refused(shop, 422, "invalid_request", **body)


def test_what_is_too_long_is_told_in_characters(shop: Akin) -> None:
    answer = refused(shop, 422, "invalid_request", cursor="x" * 101)

    assert answer["detail"] == "cursor: String should have at most 100 characters"


def test_a_form_says_what_json_says(shop: Akin) -> None:
    crop = {"x": 0.25, "y": 0, "width": 0.5, "height": 1}
    query, odd = [{"item_id": "item-2", "weight": 0.5}], {"field": "brand", "eq": "odd"}
    form = {
        "image": (io.BytesIO(picture(6)), "6.jpg"),
        "weight": "2",
        "crop": json.dumps(crop),
        "query": json.dumps(query),
        "filter": json.dumps(odd),
        "group": "false",
        "limit": "5",
    }

    sent = shop.call("POST", "/v1/search", data=form).json
    said = search(shop, image=encoded(picture(6)), weight=2, crop=crop, query=query, filter=odd, group=False, limit=5)

    assert len(sent["hits"]) == 5
    assert sent["hits"] == said["hits"]


def side_by_side(left: int, right: int, orientation: int = 1) -> bytes:
    """Two pictures in one, stored turned as the EXIF orientation says."""
    whole = Pillow.new("RGB", (192, 80))
    for column, seed in enumerate((left, right)):
        whole.paste(Pillow.open(io.BytesIO(picture(seed))), (96 * column, 0))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    turned = whole.transpose(Pillow.Transpose.ROTATE_90) if orientation == 6 else whole
    turned.save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_crop_is_of_the_upright_picture(shop: Akin, orientation: int) -> None:
    data = encoded(side_by_side(10, 11, orientation))

    left = search(shop, image=data, crop={"x": 0, "y": 0, "width": 0.5, "height": 1}, limit=1)
    right = search(shop, query=[{"image": data, "crop": {"x": 0.5, "y": 0, "width": 0.5, "height": 1}}], limit=1)

    assert (names(left), names(right)) == (["item-10"], ["item-11"])
    assert left["hits"][0]["score"] >= 0.99


def test_a_picture_of_the_catalog_is_searched_with_in_part(shop: Akin) -> None:
    whole = {"x": 0, "y": 0, "width": 1, "height": 1}
    own = image_id(shop, "item-4")

    part = search(shop, query=[{"image_id": own, "crop": {**whole, "width": 0.4}}])
    every = search(shop, query=[{"image_id": own, "crop": whole}])

    assert names(every) == names(search(shop, query=[{"image_id": own}]))
    assert names(part) != names(every)
    assert "item-4" not in names(part)


def test_a_crop_of_next_to_nothing_is_refused(shop: Akin) -> None:
    crop = {"x": 0.5, "y": 0.5, "width": 0.05, "height": 0.5}
    assert "× " in refused(shop, 422, "crop_too_small", image=encoded(picture(1)), crop=crop)["detail"]


def test_addresses_that_give_no_picture_are_refused_with_their_reason(shop: Akin) -> None:
    with web_server({"/text": b"no picture"}) as url:
        refused(shop, 422, "fetch_failed", query=[{"url": f"{url}/none.jpg"}])
        refused(shop, 422, "image_unrecognised", query=[{"url": f"{url}/text"}])
    refused(shop, 422, "fetch_refused", query=[{"url": "http://169.254.169.254/latest"}])
    refused(shop, 422, "fetch_refused", query=[{"url": "http://[::1]/a.jpg"}])


def test_an_item_is_found_once_and_every_picture_on_request(shop: Akin) -> None:
    body = {"image": encoded(picture(101)), "collapse": "none", "limit": 50}

    grouped, every = names(search(shop, **body)), names(search(shop, **body, group=False))

    assert grouped[0] == every[0] == "many"
    assert (grouped.count("many"), every.count("many")) == (1, 3)
    assert len(grouped) == SHOP + 3
    assert len(every) == SHOP + 5


def test_copies_are_folded_into_the_best_ranked(shop: Akin) -> None:
    body = {"image": encoded(picture(3)), "limit": 50}

    none, identical, near = (names(search(shop, **body, collapse=how)) for how in ("none", "identical", "near"))

    assert {"item-3", "twin", "near-twin"} <= set(none)
    assert {"item-3", "near-twin"} <= set(identical)
    assert "twin" not in identical
    assert "item-3" in near
    assert not {"twin", "near-twin"} & set(near)
    assert identical == names(search(shop, **body))


def test_diversity_puts_copies_last_and_keeps_the_best_first(shop: Akin) -> None:
    body = {"image": encoded(picture(3)), "limit": 5, "collapse": "none"}

    alike, unlike = names(search(shop, **body)), names(search(shop, **body, diversity=0.6))

    assert set(alike[:3]) == {"item-3", "twin", "near-twin"}
    assert unlike[0] == alike[0]
    assert len({"item-3", "twin", "near-twin"} & set(unlike)) == 1


def test_a_filter_keeps_to_items_and_fills_the_page(shop: Akin) -> None:
    def found(wanted: Any) -> Any:
        return search(shop, image=encoded(picture(1)), filter=wanted, limit=6, explain=True)

    odd = found({"field": "brand", "eq": "odd"})
    cheap = found({"and": [{"field": "price", "lt": 3}, {"field": "in_stock", "eq": True}]})
    none = found({"field": "brand", "eq": "none"})

    assert odd["explain"]["filtered_by"] == "ids"
    assert len(odd["hits"]) == 6
    assert {hit["item"]["attributes"]["brand"] for hit in odd["hits"]} == {"odd"}
    assert set(names(cheap)) == {"item-0", "item-1", "item-2"}
    assert none["hits"] == []


def test_similar_items_take_filter_collapse_and_diversity(shop: Akin) -> None:
    path = "/v1/items/item-3/similar?limit=30"
    wanted = json.dumps({"field": "brand", "eq": "odd"})

    assert {"twin", "near-twin"} & set(names(shop.get(path + "&collapse=none"))) == {"twin", "near-twin"}
    odd = shop.get(f"{path}&filter={wanted}&in_stock=true&diversity=0.3")
    assert set(names(odd)) == {f"item-{seed}" for seed in (1, 5, 7, 9, 11)}
    assert shop.call("GET", path + "&filter={}").json["code"] == "invalid_filter"


def test_what_was_encoded_once_is_not_encoded_again_for_a_while(shop: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> set[bytes]:
        return set(shop.services.cache.scan_iter("akin:cache:vector:*"))

    data, earlier = encoded(picture(555)), kept()
    first = search(shop, image=data)
    wait_until(lambda: kept() > earlier, "the vector is kept")
    busy = QueryEncoder(shop.services.redis, queue_limit=0, deadline=1)
    monkeypatch.setitem(vars(shop.services), "query_encoder", busy)

    assert search(shop, image=data)["hits"] == first["hits"]
    refused(shop, 429, "overloaded", image=encoded(picture(556)))
    refused(shop, 429, "overloaded", image=data, crop={"x": 0, "y": 0, "width": 0.5, "height": 1})
    assert all(0 < shop.services.cache.ttl(name) <= 600 for name in kept())


def test_searches_do_without_a_cache_that_is_away(shop: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(shop.services), "cache", redis.Redis(port=9, socket_connect_timeout=1))

    assert names(search(shop, image=encoded(picture(5))))[0] == "item-5"
    refused(shop, 503, "unavailable", image=encoded(picture(5)), paged=True, limit=2)


def test_explanations_say_how_an_answer_came_about(shop: Akin) -> None:
    body = {"image": encoded(picture(8)), "limit": 8}

    plain, explained = search(shop, **body), search(shop, **body, explain=True)

    assert plain["explain"] is None
    explain = explained["explain"]
    assert explain["filtered_by"] == "none"
    assert explain["candidates"] >= 8
    assert explain["collection"].startswith("akin_")
    assert {"index", "query", "vectors", "database"} <= explain["timings_ms"].keys()
    assert sum(explain["timings_ms"].values()) <= explained["took_ms"] * 1.1
    first, *_, last = explained["hits"]
    assert all(hit["regions"] is None for hit in plain["hits"])
    for grid in (first["regions"]["query"], first["regions"]["hit"]):
        assert {len(row) for row in grid} == {len(grid[0])}
        assert 0 <= np.min(grid) <= np.max(grid) <= 1
    assert last["regions"] is None
    by_id = search(shop, query=[{"image_id": image_id(shop, "item-8")}], explain=True)
    assert by_id["hits"][0]["regions"] is not None
    by_item = search(shop, query=[{"item_id": "item-8"}], explain=True)
    assert [hit["regions"] for hit in by_item["hits"]] == [hit["regions"] for hit in by_id["hits"]]
    by_many = search(shop, query=[{"item_id": "many"}], explain=True)
    assert by_many["explain"]["no_regions"] == "the query is not one picture"
    of_several = search(shop, query=[{"image": body["image"]}, {"item_id": "item-1"}], explain=True)
    assert all(hit["regions"] is None for hit in of_several["hits"])


def test_regions_say_what_of_each_picture_they_cover(shop: Akin) -> None:
    crop = {"x": 0.25, "y": 0.5, "width": 0.5, "height": 0.5}

    whole = search(shop, image=encoded(picture(8)), explain=True)["hits"][0]["regions"]
    part = search(shop, image=encoded(picture(8)), crop=crop, explain=True)["hits"][0]["regions"]

    everything = {"x": 0, "y": 0, "width": 1, "height": 1}
    assert (whole["query_box"], whole["hit_box"]) == (everything, everything)
    assert (part["query_box"], part["hit_box"]) == (crop, everything)


def test_several_searches_at_once_are_answered_like_one_after_the_other(shop: Akin) -> None:
    searches: list[dict[str, Any]] = [
        {"image": encoded(picture(1)), "limit": 5},
        {"query": [{"item_id": "many"}], "limit": 5},
        {"query": [{"item_id": "none"}]},
        {"image": encoded(picture(2)), "limit": 5},
        {"image": encoded(b"no picture")},
        {"image": encoded(picture(1)), "limit": 3, "filter": {"field": "brand", "eq": "even"}, "diversity": 0.2},
        {"query": [{"item_id": "item-1"}], "filter": {"field": "price"}},
        {"query": [{"item_id": "item-1"}, {"image": encoded(picture(9)), "weight": -0.5}]},
    ]

    results = shop.call("POST", "/v1/search/batch", json={"searches": searches}).json["results"]

    assert len(results) == len(searches)
    for body, result in zip(searches, results, strict=True):
        alone = shop.call("POST", "/v1/search", json=body)
        if alone.status_code == 200:
            assert names(result) == names(alone.json)
            scores = [[hit["score"] for hit in answer["hits"]] for answer in (result, alone.json)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        else:
            assert {name: value for name, value in result["error"].items() if value is not None} == alone.json


@pytest.mark.parametrize(
    ("path", "sent", "documented"),
    [
        ("/v1/search", {"query": [{"item_id": "item-1"}]}, SearchOut),
        ("/v1/search", {"query": [{"image": encoded(picture(200))}], "explain": True}, SearchOut),
        ("/v1/search", {"query": [{"item_id": "item-1"}], "paged": True, "limit": 2}, SearchOut),
        ("/v1/search/batch", {"searches": [{"query": [{"item_id": one}]} for one in ("item-1", "none")]}, BatchOut),
        ("/v1/items/item-1/similar?limit=3&fill_by=brand", None, SimilarOut),
    ],
)
def test_answers_are_written_as_their_types_would_be(
    shop: Akin, path: str, sent: dict[str, Any] | None, documented: type[Schema]
) -> None:
    response = shop.call("GET" if sent is None else "POST", path, json=sent)

    assert response.status_code == 200, response.text
    typed = documented.model_validate_json(response.text)
    assert typed.model_dump(mode="json") == response.json
    assert response.json.get("hits") or response.json["results"][0]["hits"]


def test_a_batch_is_bounded_and_has_no_pages(shop: Akin) -> None:
    one = {"query": [{"item_id": "item-1"}]}
    for searches in ([], [one] * 33, [{**one, "paged": True}], [{**one, "explain": True}], [{"cursor": "x"}]):
        refused(shop, 422, "invalid_request", "/v1/search/batch", searches=searches)


def walk(akin: Akin, between: Any = lambda number: None, **body: Any) -> list[Any]:
    """All pages of a search; `between` is called before each but the first."""
    pages = [search(akin, **body, paged=True)]
    while pages[-1]["next_cursor"]:
        between(len(pages))
        pages.append(search(akin, cursor=pages[-1]["next_cursor"], limit=body["limit"]))
    return pages


def test_pages_together_are_the_whole_answer(shop: Akin) -> None:
    body = {"image": encoded(picture(1)), "diversity": 0.1, "filter": {"field": "price", "gte": 4}}
    whole = search(shop, **body, limit=50)

    pages = walk(shop, **body, limit=7)

    assert [len(page["hits"]) for page in pages] == [7, 7, 6]
    assert {name for page in pages for name in names(page)} == set(names(whole))
    assert [hit["rank"] for page in pages for hit in page["hits"]] == list(range(1, 21))
    assert all(page["encoder"] == whole["encoder"] for page in pages)
    exactly = walk(shop, **body, limit=10)
    assert [len(page["hits"]) for page in exactly] == [10, 10]


def test_pages_take_a_filter_with_a_number_of_any_size(shop: Akin) -> None:
    pages = walk(shop, image=encoded(picture(1)), filter={"field": "price", "lt": 10**20}, limit=20)

    assert [len(page["hits"]) for page in pages] == [20, 4]


def test_a_cursor_opens_its_own_catalog_only_and_not_for_ever(shop: Akin) -> None:
    cursor = search(shop, image=encoded(picture(1)), limit=5, paged=True)["next_cursor"]
    shop.call("POST", "/v1/catalogs", json={"name": "other"})

    refused(shop, 410, "cursor_expired", "/v1/search?catalog=other", cursor=cursor)
    refused(shop, 410, "cursor_expired", cursor="x" * 24 + ".0.0")
    refused(shop, 410, "cursor_expired", cursor="../../etc")
    assert len(search(shop, cursor=cursor)["hits"]) == 20
    (name,) = [name for name in shop.services.cache.scan_iter("akin:cache:page:*") if cursor[:24].encode() in name]
    assert 0 < shop.services.cache.ttl(name) <= 600
    shop.services.cache.delete(name)
    refused(shop, 410, "cursor_expired", cursor=cursor)


def test_pages_neither_repeat_nor_skip_whatever_happens_between_them(akin: Akin, pictures: dict[str, bytes]) -> None:
    akin.upload_many(pictures)
    akin.work()
    body = {"image": encoded(picture(900)), "limit": 5}
    ranked = names(search(akin, **{**body, "limit": 30}))

    def disturb(number: int) -> None:
        if number == 1:
            # One that was shown, two that come next, and one later; and a new one that would be first.
            for item_id in (ranked[0], ranked[5], ranked[6], ranked[20]):
                assert akin.call("DELETE", f"/v1/items/{item_id.replace('/', '%2F')}").status_code == 204
            akin.upload(picture(900), "new")
            akin.work()
        if number == 2:
            assert akin.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"}).status_code == 202
            akin.work()
            assert search(akin, **body)["encoder"] == "conv-ae-64@1"

    pages = walk(akin, disturb, **body)

    left = [name for name in ranked if name not in (ranked[5], ranked[6], ranked[20])]
    assert [name for page in pages for name in names(page)] == left
    assert [len(page["hits"]) for page in pages] == [5, 5, 5, 5, 5, 2]
    assert {page["encoder"] for page in pages} == {pages[0]["encoder"]}


def test_what_is_not_embedded_yet_cannot_be_searched_with(akin: Akin) -> None:
    akin.upload(picture(1), "one")

    refused(akin, 409, "not_searchable_yet", query=[{"item_id": "one"}])
    refused(akin, 409, "not_searchable_yet", query=[{"image_id": image_id(akin, "one")}])
    assert akin.get("/v1/items/one/similar")["hits"] == []
    akin.call("PUT", "/v1/items/bare", json={"title": "no picture"})
    refused(akin, 409, "not_searchable_yet", query=[{"item_id": "bare"}])
    assert search(akin, image=encoded(picture(1)))["hits"] == []
    akin.work()
    assert search(akin, query=[{"item_id": "one"}])["hits"] == []


CROWD = 5000


def crowd(akin: Akin, count: int = CROWD) -> NDArray[np.float32]:
    """Items with random vectors instead of embedded pictures; every 333rd is rare, every second common."""
    with akin.services.database.transaction() as session:
        index = catalogs.live_index(session, akin.catalog_id)
        wanted = [
            ItemFields(f"i{n:05}", attributes={"rare": n % 333 == 0, "common": n % 2 == 0, "n": n, "code": f"{n:05}"})
            for n in range(count)
        ]
        keys: dict[str, int] = {}
        for start in range(0, count, 1000):
            keys |= items.upsert(session, akin.catalog_id, wanted[start : start + 1000])
        bytes_of = lambda n: Bytes(f"{n:064x}", "jpeg", "image/jpeg", 9, 9, 99)  # noqa: E731
        added = items.add_images(session, akin.catalog_id, [(keys[f"i{n:05}"], bytes_of(n)) for n in range(count)])
        rows = session.query(Item).all()
        described = {item.id: facets.facets_of(item) for item in rows}
    ids = [one for one, _ in added]
    drawn = np.random.default_rng(3).normal(size=(count, index.encoder.dimension)).astype(np.float32)
    akin.services.vectors.create(index.collection, index.encoder.dimension)
    akin.services.vectors.upsert(index.collection, ids, drawn, [described[keys[f"i{n:05}"]] for n in range(count)])
    akin.services.vectors.barrier(index.collection)
    return drawn


def test_a_filter_that_few_match_fills_the_page_and_one_that_many_match_too(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    drawn = crowd(akin)
    unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    lite = "sqlite" in akin.services.settings.database

    def nearest(keep: Any, most: int = 10) -> list[str]:
        order = np.argsort(-(unit @ unit[1]), kind="stable")
        return [f"i{n:05}" for n in order if n != 1 and keep(n)][:most]

    def found(wanted: Any) -> tuple[list[str], str]:
        answer = search(akin, query=[{"item_id": "i00001"}], filter=wanted, limit=10, explain=True, collapse="none")
        return names(answer), answer["explain"]["filtered_by"]

    monkeypatch.setattr(filtering, "PROBE_SECONDS", 10)
    rare, common = {"field": "rare", "eq": True}, {"field": "common", "eq": True}
    assert found(rare) == (nearest(lambda n: n % 333 == 0), "ids")
    by_many = "database" if lite else "vectors"
    hits, how = found(common)
    assert how == by_many
    assert len(set(hits) & set(nearest(lambda n: n % 2 == 0))) >= 9
    # The same rare filter, had it been too broad to list: 16 of 5,000, which only widening finds.
    monkeypatch.setattr(filtering, "MOST_IDS", 3)
    hits, how = found({"and": [rare, rare]})
    assert how == by_many
    assert len(hits) == 10
    assert set(hits) <= {f"i{n:05}" for n in range(0, CROWD, 333)}
    every = search(akin, query=[{"item_id": "i00001"}], filter={"or": [rare, rare]}, limit=200)
    assert set(names(every)) == {f"i{n:05}" for n in range(0, CROWD, 333)}


def test_a_probe_that_takes_too_long_is_cut_short_and_the_search_goes_on(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    crowd(akin, 1500)
    monkeypatch.setattr(filtering, "PROBE_SECONDS", 0.001)

    answer = search(akin, query=[{"item_id": "i00001"}], filter={"field": "rare", "eq": True}, explain=True)

    assert answer["explain"]["filtered_by"] != "ids"
    assert len(answer["hits"]) == 5
    assert akin.get("/v1/items?limit=1")["data"]  # the connection is as good as before
    # That it took long once says nothing about how many match.
    monkeypatch.setattr(filtering, "PROBE_SECONDS", 10)
    again = search(akin, query=[{"item_id": "i00001"}], filter={"field": "rare", "eq": True}, explain=True)
    assert again["explain"]["filtered_by"] == "ids"
    assert names(again) == names(answer)


@pytest.mark.parametrize("most", [5, 1000])
def test_a_filter_that_few_match_fills_the_page_however_far_away_they_are(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Be it that the probe took too long, or that it found too many; of texts the vector store knows no order."""
    akin = either_akin
    crowd(akin, 1500)
    monkeypatch.setattr(filtering, "MOST_IDS", most)
    monkeypatch.setattr(filtering, "PROBE_SECONDS", 10 if most == 5 else 0.001)
    monkeypatch.setattr(neighbours, "MAX_LIMIT", 20)
    last = {"field": "code", "gte": "01490"}

    answer = search(akin, query=[{"item_id": "i00001"}], filter=last, limit=10, collapse="none", explain=True)

    assert sorted(names(answer)) == [f"i{n:05}" for n in range(1490, 1500)]
    assert [hit["score"] for hit in answer["hits"]] == sorted((hit["score"] for hit in answer["hits"]), reverse=True)
    assert answer["explain"]["filtered_by"] == "ids"


def test_a_search_that_finds_nothing_looks_at_so_many_pictures_and_no_more(
    either_akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    akin = either_akin
    crowd(akin, 1500)
    monkeypatch.setattr(filtering, "MOST_IDS", 3)
    monkeypatch.setattr(filtering, "MOST_LISTED", 3)
    monkeypatch.setattr(ranked, "MOST_LOOKED_AT", 300)
    last = {"field": "code", "gte": "01490"}

    answer = search(akin, query=[{"item_id": "i00001"}], filter=last, limit=10, explain=True)

    assert answer["explain"]["candidates"] == 300
    assert len(answer["hits"]) < 10
    assert set(names(answer)) <= {f"i{n:05}" for n in range(1490, 1500)}


def test_true_and_one_are_two_filters(either_akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    akin = either_akin
    crowd(akin, 50)
    monkeypatch.setattr(filtering, "MOST_IDS", 3)
    ways = [
        search(akin, query=[{"item_id": "i00001"}], filter={"field": "common", "eq": value}, explain=True)["explain"]
        for value in (True, 1)
    ]

    assert ways[0]["filtered_by"] != "ids"
    assert ways[1]["filtered_by"] == "ids"


def test_strong_sees_at_once_what_was_acknowledged(either_akin: Akin) -> None:
    akin = either_akin
    drawn = crowd(akin, 50)
    with akin.services.database.transaction() as session:
        collection = catalogs.live_index(session, akin.catalog_id).collection
        keys = items.upsert(session, akin.catalog_id, [ItemFields(f"late-{n}") for n in range(5)])
        late = [(keys[f"late-{n}"], Bytes(f"a{n:063x}", "jpeg", "image/jpeg", 9, 9, 99)) for n in range(5)]
        ids = [one for one, _ in items.add_images(session, akin.catalog_id, late)]
    for number, own in enumerate(ids):
        akin.services.vectors.upsert(collection, [own], drawn[number : number + 1])

        found = search(akin, query=[{"item_id": f"i{number:05}"}], consistency="strong", limit=1)
        by_id = search(akin, query=[{"image_id": own}], consistency="strong", limit=1)

        assert (names(found), names(by_id)) == ([f"late-{number}"], [f"i{number:05}"])


def test_strong_finds_at_once_what_was_changed_to_match(either_akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    akin = either_akin
    for seed in range(6):
        attributes = {"brand": "Acme" if seed < 3 else "Bolt"}
        akin.upload(picture(seed), f"item-{seed}", attributes=json.dumps(attributes))
    akin.work()
    monkeypatch.setattr(filtering, "MOST_IDS", 2)
    monkeypatch.setattr(filtering, "PROBE_SECONDS", 10)

    def found() -> list[str]:
        acme = {"field": "brand", "eq": "Acme"}
        return names(search(akin, image=encoded(picture(5)), filter=acme, consistency="strong", limit=2))

    before = found()
    assert akin.call("PUT", "/v1/items/item-5", json={"attributes": {"brand": "Acme"}}).status_code == 200
    changed = found()
    akin.work()

    assert "item-5" not in before
    assert changed == found() == ["item-5", before[0]]


def test_a_search_says_how_long_it_took(shop: Akin) -> None:
    began = time.perf_counter()
    answer = search(shop, query=[{"item_id": "item-1"}])
    assert 0 < answer["took_ms"] <= (time.perf_counter() - began) * 1000


def test_vectors_of_the_catalog_are_asked_for_once(shop: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(shop, query=[{"item_id": "item-13"}])
    asked: list[Any] = []
    monkeypatch.setattr(type(shop.services.vectors), "fetch", lambda *given, **_: asked.append(given) or {})

    assert search(shop, query=[{"item_id": "item-13"}])["hits"] == first["hits"]
    assert asked == []


def test_the_client_says_all_that_a_search_can(shop: Akin, address: str, tmp_path: Path) -> None:
    file = tmp_path / "3.jpg"
    file.write_bytes(picture(3))
    own = image_id(shop, "item-6")
    odd = {"field": "brand", "eq": "odd"}
    with AkinClient(address, shop.key) as client:
        plain = client.search(file, limit=3, filter=odd, group=False, explain=True)
        parts = [Part(image=file, crop=(0, 0, 1, 1)), Part(image_id=own, weight=-0.5), Part(item_id="many")]
        several = client.search(parts, diversity=0.2, collapse="near", consistency="strong", min_score=-0.9)
        similar = client.similar("item-3", limit=5, filter=odd, in_stock=True, fill_by="brand")
        with pytest.raises(InvalidRequest):
            client.search([Part(text="words")])

    assert plain.hits[0].item.item_id == "item-3"
    assert plain.explain is not None and plain.explain.filtered_by == "ids"
    assert plain.hits[0].regions is not None
    assert plain.hits[0].regions.hit_box == Box(x=0, y=0, width=1, height=1)
    assert len(several.hits) == 10
    assert {"item-6", "many"}.isdisjoint(hit.item.item_id for hit in several.hits)
    assert [hit.item.item_id for hit in similar.hits] == [
        hit["item"]["item_id"]
        for hit in shop.get(f"/v1/items/item-3/similar?limit=5&in_stock=true&filter={json.dumps(odd)}")["hits"]
    ]


def test_the_client_walks_through_pages_and_asks_several_things_at_once(shop: Akin, address: str) -> None:
    with AkinClient(address, shop.key) as client:
        pages = list(client.search_pages(picture(1), limit=10))
        found, missing = client.search_batch([(picture(1), {"limit": 2}), ([Part(item_id="none")], {})])

    assert [len(page.hits) for page in pages] == [10, 10, 6]
    assert [hit.rank for page in pages for hit in page.hits] == list(range(1, 27))
    assert isinstance(found, SearchResult)
    assert [hit.item.item_id for hit in found.hits] == [hit.item.item_id for hit in pages[0].hits[:2]]
    assert isinstance(missing, SearchFailure)
    assert (missing.error.code, missing.error.status) == ("item_not_found", 404)


def test_the_command_searches_with_several_things(shop: Akin, address: str, tmp_path: Path) -> None:
    file = tmp_path / "5.jpg"
    file.write_bytes(picture(5))

    def run(*arguments: str | Path, code: int = 0) -> str:
        outcome = CliRunner().invoke(main, ["search", "--url", address, "--key", shop.key, *map(str, arguments)])
        assert outcome.exit_code == code, outcome.output
        return outcome.output

    def found(*arguments: str | Path) -> list[str]:
        return names(json.loads(run(*arguments, "--json")))

    assert found(file)[0] == "item-5"
    body = [{"image": encoded(picture(5))}, {"item_id": "item-1", "weight": -0.5}]
    assert found(file, "--item", "item-1", "--weight", "1", "--weight", "-0.5") == names(
        search(shop, query=body, limit=10)
    )
    cheap = found("--image-id", str(image_id(shop, "item-2")), "--filter", '{"field": "price", "lt": 3}')
    assert set(cheap) == {"item-0", "item-1"}
    assert found("--item", "many", "--limit", "30", "--every-picture", "--collapse", "none", "--diversity", "0.5")
    table = run(file, "--crop", "0,0,1,1", "--explain")
    assert "item-5" in table
    assert "filtered by none" in table
    assert "no item" in run("--item", "none", code=1)
    for wrong in (
        [],
        ["--weight", "1"],
        [file, "--weight", "1", "--weight", "1"],
        ["--item", "a", "--crop", "0,0,1,1"],
    ):
        run(*wrong, code=2)
    for wrong in (["--filter", "["], ["--filter", "3"], ["--crop", "1,2"], ["--crop", "a,b,c,d"]):
        run(file, *wrong, code=2)
