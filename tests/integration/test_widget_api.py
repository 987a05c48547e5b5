"""What the pages of a shop may do: similar items, thumbnails and events, with a key that everybody can read."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from services import housekeeping, shelf
from services.api import rate_limit
from services.api.app import create_app
from services.api.rate_limit import PICTURES, WINDOW_SECONDS
from services.api.schemas import ImageOut, ItemOut
from services.api.schemas_search import HitOut
from services.api.schemas_widget import OtherOut, SimilarOut
from services.api.similar import MOST_CONDITIONS
from services.catalog.database import now
from services.catalog.models import Embedding, Event, Image, Item
from services.storage.blobs import key_of
from services.wiring import build
from tests.integration.conftest import Akin, picture
from tests.servers import free_ports, wait_until

SHOP = "https://shop.example"
COUNT = 14
LIKE = "/v1/items/item-0/similar"


@pytest.fixture
def shop(akin: Akin) -> Akin:
    """A catalog of items of two kinds; every third is sold out."""
    for number in range(COUNT):
        attributes = {"kind": f"kind {number % 2}", "in_stock": number % 3 != 0, "price": 10 + number}
        akin.upload(picture(number), f"item-{number}", title=f"Item {number}", attributes=json.dumps(attributes))
    akin.work()
    return akin


def publishable(akin: Akin, *origins: str, **more: str) -> str:
    body = {"name": "shop", "scopes": ["widget"], "origins": origins or [SHOP], **more}
    response = akin.call("POST", "/v1/admin/keys", json=body)
    assert response.status_code == 201, response.text
    made: str = response.json["key"]
    return made


def ask(
    akin: Akin, path: str, key: str, *, origin: str | None = SHOP, client: FlaskClient | None = None, **request: Any
) -> TestResponse:
    """A page of the shop asks, with its key in the address."""
    headers = {**({"Origin": origin} if origin else {}), **request.pop("headers", {})}
    address = f"{path}{'&' if '?' in path else '?'}{urlencode({'key': key})}"
    return (client or akin.client).open(address, headers=headers, **{"method": "GET", **request})


def refused(response: TestResponse, status: int, code: str) -> None:
    assert (response.status_code, response.json["code"]) == (status, code), response.text


@contextmanager
def configured(akin: Akin, **settings: Any) -> Iterator[FlaskClient]:
    """Another API process on the same data, with other settings."""
    services = build(akin.services.settings.model_copy(update=settings))
    try:
        yield create_app(services).test_client()
    finally:
        services.close()


def ids(answer: Any) -> list[str]:
    return [hit["item"]["item_id"] for hit in answer["hits"]]


def test_a_publishable_key_may_ask_for_similar_items_their_thumbnails_and_nothing_else(shop: Akin) -> None:
    key = publishable(shop)

    answer = ask(shop, f"{LIKE}?limit=3", key)
    thumbnail = ask(shop, f"/v1/images/{answer.json['hits'][0]['image']['id']}/thumbnail?size=128", key)

    SimilarOut.model_validate_json(answer.data)
    assert len(ids(answer.json)) == 3
    assert thumbnail.status_code == 200
    assert thumbnail.mimetype == "image/webp"
    as_header = {"Authorization": f"Bearer {key}", "Origin": SHOP}
    assert shop.client.get(LIKE, headers=as_header).status_code == 200
    for path in ("/v1/items", "/v1/images", "/v1/images/1/content", "/v1/catalogs", "/v1/admin/keys"):
        refused(shop.client.get(path, headers=as_header), 403, "missing_scope")
        # In the address, only the routes for web pages look for a key.
        refused(ask(shop, path, key), 401, "unauthorized")
    refused(shop.client.delete("/v1/items/item-0", headers=as_header), 403, "missing_scope")


def test_publishable_keys_are_listed_with_their_origins_and_secret_ones_stay_secret(akin: Akin) -> None:
    key = publishable(akin, "HTTPS://shop.example:443", "http://localhost:3000")

    (mine,) = [row for row in akin.get("/v1/admin/keys")["data"] if row["public"]]

    assert mine["public"] == key
    assert mine["origins"] == [SHOP, "http://localhost:3000"]
    for body in (
        {"scopes": ["widget"]},
        {"scopes": ["search"], "origins": [SHOP]},
        {"scopes": ["widget"], "origins": []},
        {"scopes": ["widget"], "origins": ["*"]},
    ):
        assert akin.call("POST", "/v1/admin/keys", json={"name": "x", **body}).status_code == 422


SAME = {"Sec-Fetch-Site": "same-origin"}
PICTURE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}


THUMBNAIL = "/v1/images/1/thumbnail"
ASKED = [
    (LIKE, SHOP, {}, True),
    (LIKE, "https://other.example", {}, False),
    (LIKE, "http://shop.example", {}, False),
    (LIKE, "https://shop.example:8443", {}, False),
    (LIKE, "https://evil-shop.example", {}, False),
    (LIKE, "null", {}, False),
    (LIKE, None, {}, False),
    (LIKE, None, SAME, True),
    (LIKE, None, PICTURE, False),
    (LIKE, "https://other.example", SAME, False),
    (THUMBNAIL, SHOP, {}, True),
    (THUMBNAIL, None, PICTURE, True),
    (THUMBNAIL, None, {}, False),
    (THUMBNAIL, "https://other.example", PICTURE, False),
]


def test_a_publishable_key_is_taken_from_pages_of_its_origins(shop: Akin) -> None:
    key = publishable(shop, SHOP, "http://localhost")  # where the test client says that Akin is

    for path, origin, headers, taken in ASKED:
        response = ask(shop, path, key, origin=origin, headers=headers)

        if taken:
            assert response.status_code == 200, (path, origin, headers)
        else:
            refused(response, 403, "other_origin")


def test_akins_own_pages_may_not_use_a_key_that_is_not_for_them(shop: Akin) -> None:
    refused(ask(shop, LIKE, publishable(shop, SHOP), origin=None, headers=SAME), 403, "other_origin")


def test_neither_a_secret_key_in_an_address_nor_another_catalogs_key_opens_anything(shop: Akin) -> None:
    assert shop.call("POST", "/v1/catalogs", json={"name": "other"}).status_code == 201
    other = publishable(shop, catalog="other")

    refused(ask(shop, LIKE, shop.key), 401, "unauthorized")
    refused(ask(shop, LIKE, "pk_" + "x" * 32), 401, "unauthorized")
    refused(ask(shop, LIKE, other), 404, "item_not_found")
    refused(ask(shop, "/v1/images/1/thumbnail", other), 404, "image_not_found")
    refused(ask(shop, f"{LIKE}?catalog=default", other), 403, "other_catalog")


def test_a_request_with_two_keys_is_refused_so_that_no_shared_cache_keeps_one_catalogs_answer_for_another(
    shop: Akin,
) -> None:
    assert shop.call("POST", "/v1/catalogs", json={"name": "other"}).status_code == 201
    mine, other = publishable(shop), publishable(shop, catalog="other")

    for path in (LIKE, "/v1/images/1/thumbnail"):
        for secret in (mine, shop.key):
            refused(ask(shop, path, other, headers={"Authorization": f"Bearer {secret}"}), 422, "two_keys")
        twice = ask(shop, path, mine, headers={"Authorization": f"Bearer {mine}"})
        assert twice.status_code == 200
        assert twice.headers["Cache-Control"].startswith("public")
        header = shop.client.get(path, headers={"Authorization": f"Bearer {mine}", "Origin": SHOP})
        assert header.headers["Cache-Control"].startswith("private")


def test_a_bound_key_does_not_learn_which_other_catalogs_there_are(shop: Akin) -> None:
    assert shop.call("POST", "/v1/catalogs", json={"name": "other"}).status_code == 201
    key = publishable(shop)
    bound = {"name": "bound", "scopes": ["search"], "catalog": "other"}
    secret = shop.call("POST", "/v1/admin/keys", json=bound).json["key"]

    for name in ("other", "none"):
        refused(ask(shop, f"{LIKE}?catalog={name}", key), 403, "other_catalog")
    for name in ("default", "none"):
        refused(shop.call("GET", f"/v1/images?catalog={name}", key=secret), 403, "other_catalog")
        # Nor by what it may not do there.
        refused(shop.call("DELETE", f"/v1/items/item-0?catalog={name}", key=secret), 403, "missing_scope")
    assert ask(shop, f"{LIKE}?catalog=default", key).status_code == 200
    assert shop.call("GET", "/v1/images?catalog=other", key=secret).status_code == 200


def test_a_publishable_key_signs_no_browser_in(akin: Akin) -> None:
    browser = create_app(akin.services).test_client()
    browser.post("/session", json={"key": publishable(akin, "http://localhost")})

    refused(browser.get(LIKE), 401, "unauthorized")


def test_a_revoked_publishable_key_ends_within_moments(shop: Akin) -> None:
    key = publishable(shop)
    assert ask(shop, LIKE, key).status_code == 200
    (row,) = [row for row in shop.get("/v1/admin/keys")["data"] if row["public"] == key]

    assert shop.call("DELETE", f"/v1/admin/keys/{row['id']}").status_code == 204

    wait_until(lambda: ask(shop, LIKE, key).status_code == 401, "the key's end", seconds=3)


def test_browsers_may_show_the_answers_to_the_pages_of_the_key_and_errors_to_whoever_asks(shop: Akin) -> None:
    key, allow = publishable(shop), "Access-Control-Allow-Origin"
    asking = {"Origin": SHOP, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}

    preflight = shop.client.options(LIKE, headers=asking)
    answered = ask(shop, LIKE, key)
    unchanged = ask(shop, LIKE, key, headers={"If-None-Match": answered.headers["ETag"]})
    wrong = ask(shop, LIKE, key, origin="https://other.example")
    missing = ask(shop, "/v1/items/none/similar", key)
    secret = shop.call("GET", LIKE, headers={"Origin": SHOP})
    elsewhere = shop.call("GET", "/v1/items", headers={"Origin": SHOP})

    assert (preflight.status_code, preflight.headers[allow]) == (200, SHOP)
    assert preflight.headers["Access-Control-Allow-Methods"] == "GET"
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert unchanged.status_code == 304
    for response in (answered, unchanged, missing):
        assert response.headers[allow] == SHOP
        assert "Origin" in response.vary
        assert "Access-Control-Allow-Credentials" not in response.headers
    assert wrong.headers[allow] == "https://other.example"
    assert allow not in secret.headers
    assert allow not in elsewhere.headers
    assert shop.client.options("/v1/items", headers=asking).headers.get(allow) is None


def test_thumbnails_may_stand_in_other_sites_pages_and_shared_caches_with_a_publishable_key_only(shop: Akin) -> None:
    shown = ask(shop, "/v1/images/1/thumbnail", publishable(shop), origin=None, headers=PICTURE)
    own = shop.call("GET", "/v1/images/1/thumbnail")

    assert shown.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert shown.headers["Cache-Control"].startswith("public")
    assert "Cross-Origin-Resource-Policy" not in own.headers
    assert own.headers["Cache-Control"].startswith("private")


def test_processes_count_a_visitor_together(shop: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tells the cache of a thirtieth of the limit at a time, so that it may let as much more pass."""
    monkeypatch.setattr(rate_limit, "WINDOW_SECONDS", 10**9)  # no turn of a minute among the requests
    key = publishable(shop)
    with configured(shop, widget_rate=60) as one, configured(shop, widget_rate=60) as other:
        passed = 0
        for client in [one, other] * 50:
            answered = ask(shop, LIKE, key, client=client, environ_base={"REMOTE_ADDR": "203.0.113.9"})
            passed += answered.status_code == 200

    assert 60 <= passed <= 64


def test_a_household_with_many_addresses_is_one_visitor(shop: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "WINDOW_SECONDS", 10**9)
    key = publishable(shop)
    with configured(shop, widget_rate=60) as client:
        answers = [
            ask(shop, LIKE, key, client=client, environ_base={"REMOTE_ADDR": f"2001:db8::{number:x}"}).status_code
            for number in range(1, 71)
        ]

    assert answers == [200] * 60 + [429] * 10


def test_a_visitor_who_asks_too_often_is_told_when_to_ask_again(shop: Akin) -> None:
    key = publishable(shop)
    with configured(shop, widget_rate=3) as client:

        def status(address: str, **more: Any) -> TestResponse:
            return ask(shop, LIKE, key, client=client, environ_base={"REMOTE_ADDR": address}, **more)

        # The turn of a minute may lie between the requests.
        answers = [status("203.0.113.7") for _ in range(8)]
        late = answers[-1]
        forwarded = status("203.0.113.7", headers={"X-Forwarded-For": "198.51.100.9"})
        someone_else = status("198.51.100.9")
        household = [status(f"2001:db8:0:1::{number}").status_code for number in range(8)]
        secret = [client.get(LIKE, headers={"Authorization": f"Bearer {shop.key}"}).status_code for _ in range(5)]

    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    refused(late, 429, "overloaded")
    assert 0 < int(late.headers["Retry-After"]) <= WINDOW_SECONDS
    assert late.headers["Access-Control-Allow-Origin"] == SHOP
    assert forwarded.status_code == 429
    assert someone_else.status_code == 200
    assert household[-1] == 429
    assert secret == [200] * 5


def test_a_visitor_who_draws_too_many_pictures_is_told_when_to_ask_again_and_may_ask_for_similar_items(
    shop: Akin,
) -> None:
    key = publishable(shop)
    with configured(shop, widget_rate=1) as client:

        def draw(address: str) -> TestResponse:
            return ask(shop, THUMBNAIL, key, client=client, environ_base={"REMOTE_ADDR": address})

        # The turn of a minute may lie between the requests.
        answers = [draw("203.0.113.7") for _ in range(2 * PICTURES + 1)]
        late = answers[-1]
        items = ask(shop, LIKE, key, client=client, environ_base={"REMOTE_ADDR": "203.0.113.7"})
        someone_else = draw("198.51.100.9")
        header = {"Authorization": f"Bearer {shop.key}"}
        secret = [client.get(THUMBNAIL, headers=header).status_code for _ in range(2 * PICTURES + 1)]

    assert [answer.status_code for answer in answers[:PICTURES]] == [200] * PICTURES
    refused(late, 429, "overloaded")
    assert 0 < int(late.headers["Retry-After"]) <= WINDOW_SECONDS
    assert items.status_code == someone_else.status_code == 200
    assert set(secret) == {200}


def test_behind_proxies_the_visitor_is_whom_the_nearest_trusted_one_names(shop: Akin) -> None:
    key = publishable(shop)
    with configured(shop, widget_rate=1, proxies=1) as client:
        named = [
            ask(shop, LIKE, key, client=client, headers={"X-Forwarded-For": f"1.2.3.4, 203.0.113.{n}"}).status_code
            for n in range(5)
        ]

    assert named == [200] * 5


def test_without_the_cache_nobody_is_refused_and_similar_items_are_found(shop: Akin) -> None:
    key, (port,) = publishable(shop), free_ports(1)
    with configured(shop, widget_rate=1, cache_url=SecretStr(f"redis://127.0.0.1:{port}/0")) as client:
        answers = [ask(shop, LIKE, key, client=client) for _ in range(3)]

    assert [len(ids(answer.json)) for answer in answers] == [COUNT - 1] * 3


def test_a_cache_that_never_answers_is_not_waited_for_again_and_again(shop: Akin) -> None:
    key = publishable(shop)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with configured(shop, cache_url=SecretStr(address)) as client:
            first = ask(shop, LIKE, key, client=client)
            began = time.monotonic()
            second = ask(shop, LIKE, key, client=client)
            seconds = time.monotonic() - began

    assert len(ids(first.json)) == len(ids(second.json)) == COUNT - 1
    assert seconds < 1


def test_what_was_ranked_is_kept_while_titles_prices_and_what_exists_are_those_of_the_moment(shop: Akin) -> None:
    before = shop.get(f"{LIKE}?limit=4")
    first, second, *rest = ids(before)
    shop.call("PUT", f"/v1/items/{second}", json={"title": "New", "attributes": {"price": 1}})
    assert shop.call("DELETE", f"/v1/items/{first}").status_code == 204

    (port,) = free_ports(1)
    with configured(shop, milvus_uri=f"http://127.0.0.1:{port}") as client:  # nothing can be ranked there
        after = client.get(f"{LIKE}?limit=4", headers={"Authorization": f"Bearer {shop.key}"}).json

    assert ids(after)[:3] == [second, *rest]
    assert len(ids(after)) == 4
    assert after["hits"][0]["item"]["title"] == "New"
    assert after["hits"][0]["item"]["attributes"] == {"price": 1}
    assert [hit["rank"] for hit in after["hits"]] == [1, 2, 3, 4]


def test_what_was_ranked_is_ranked_anew_when_too_much_of_it_is_gone(shop: Akin) -> None:
    address = f"{LIKE}?limit=3&in_stock=true"
    first = ids(shop.get(address))
    for item_id in ids(shop.get(f"{LIKE}?limit=200&in_stock=true")):
        if item_id not in first:
            shop.call("PUT", f"/v1/items/{item_id}", json={"attributes": {"in_stock": False}})
    for item_id in first:
        shop.call("PUT", f"/v1/items/{item_id}", json={"attributes": {"in_stock": False}})
    shop.call("PUT", "/v1/items/item-3", json={"attributes": {"in_stock": True}})

    assert ids(shop.get(address)) == ["item-3"]


def test_another_live_index_ranks_anew(shop: Akin) -> None:
    before = shop.get(LIKE)
    assert shop.call("POST", "/v1/admin/reindex", json={"encoder": "conv-ae-64"}).status_code == 202
    shop.work()

    after = shop.get(LIKE)

    assert after["index"] != before["index"]
    assert after["encoder"].startswith("conv-ae-64")
    assert [hit["score"] for hit in after["hits"]] != [hit["score"] for hit in before["hits"]]


def test_an_item_that_is_not_searchable_yet_is_not_kept_as_one_without_look_alikes(shop: Akin) -> None:
    shop.upload(picture(99), "late")
    assert ids(shop.get("/v1/items/late/similar")) == []
    shop.work()

    assert len(ids(shop.get("/v1/items/late/similar"))) == COUNT


def test_that_an_item_has_no_look_alikes_is_kept_as_well(shop: Akin) -> None:
    alone, address = f"{LIKE}?min_score=1", f"{LIKE}?min_score=1&fill_by=nothing"
    first = shop.call("GET", alone)
    assert ids(shop.get(address)) == []
    (port,) = free_ports(1)
    headers = {"Authorization": f"Bearer {shop.key}"}
    with configured(shop, milvus_uri=f"http://127.0.0.1:{port}") as client:  # nothing can be ranked there
        again = client.get(alone, headers=headers)
        filled = client.get(address, headers=headers)
        assert shop.call("DELETE", "/v1/items/item-0").status_code == 204
        gone = client.get(alone, headers=headers)

    for answer in (first, again, filled):
        assert (answer.status_code, answer.json["hits"], answer.json["others"]) == (200, [], [])
        assert "max-age=60" in answer.headers["Cache-Control"]
    refused(gone, 404, "item_not_found")


def test_what_precedes_an_items_first_vector_is_kept_by_nobody(shop: Akin) -> None:
    shop.upload(picture(99), "late", attributes=json.dumps({"kind": "kind 0"}))
    path = "/v1/items/late/similar?limit=3&fill_by=kind"

    early = shop.call("GET", path)
    shop.work()
    late = shop.call("GET", path)

    assert (early.json["hits"], len(early.json["others"])) == ([], 3)
    assert early.headers["Cache-Control"] == "no-store"
    assert (len(late.json["hits"]), late.json["others"]) == (3, [])
    assert "max-age=60" in late.headers["Cache-Control"]


def test_what_an_item_has_whose_only_picture_failed_is_kept(shop: Akin) -> None:
    shop.upload(picture(99), "broken", attributes=json.dumps({"kind": "kind 0"}))
    image = shop.get("/v1/items/broken")["images"][0]
    shop.services.blobs.delete(key_of(image["sha256"]))
    shop.work()
    assert shop.get(f"/v1/images/{image['id']}")["state"] == "failed"
    path = "/v1/items/broken/similar?limit=3&fill_by=kind"

    first = shop.call("GET", path)
    (port,) = free_ports(1)
    with configured(shop, milvus_uri=f"http://127.0.0.1:{port}") as client:  # nothing can be ranked there
        again = client.get(path, headers={"Authorization": f"Bearer {shop.key}"})

    for answer in (first, again):
        assert (answer.json["hits"], len(answer.json["others"])) == ([], 3)
        assert "max-age=60" in answer.headers["Cache-Control"]


def test_an_item_without_a_vector_is_early_until_it_has_failed(shop: Akin) -> None:
    """Where the ledger says `indexed`, Milvus does not show yet what it was just given."""
    image_id = shop.upload(picture(99), "late")["image_id"]

    def freshness(state: str) -> str:
        with shop.services.database.transaction() as session:
            session.execute(update(Embedding).where(Embedding.image_id == image_id).values(state=state))
        return shop.call("GET", "/v1/items/late/similar").headers["Cache-Control"]

    assert {freshness(state) for state in ("pending", "leased", "indexed")} == {"no-store"}
    assert "max-age=60" in freshness("failed")


def test_what_changes_while_it_is_read_is_not_kept_for_what_was_before(
    shop: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.call("GET", f"{LIKE}?limit=4")
    neighbour = f"/v1/items/{ids(first.json)[0]}"

    def price(answer: Any) -> Any:
        return answer.json["hits"][0]["item"]["attributes"].get("price")

    def shown(*arguments: Any) -> Any:
        monkeypatch.undo()
        shop.call("PUT", neighbour, json={"attributes": {"price": 2}})
        return shelf.shown(*arguments)

    shop.call("PUT", neighbour, json={"attributes": {"price": 1}})
    moment = datetime.fromisoformat(shop.get(neighbour)["updated_at"])
    monkeypatch.setattr(shelf, "shown", shown)
    between = shop.call("GET", f"{LIKE}?limit=4")
    with shop.services.database.transaction() as session:  # the tag is as it was before
        changes = {"attributes": {"price": 3}, "updated_at": moment}
        session.execute(update(Item).where(Item.item_id == ids(first.json)[0]).values(changes))

    assert price(between) == 2
    assert price(shop.call("GET", f"{LIKE}?limit=4")) == 3


def test_an_unchanged_answer_is_304_and_any_change_makes_another_tag(shop: Akin) -> None:
    key = publishable(shop)
    first = ask(shop, f"{LIKE}?limit=4", key)
    known = {"If-None-Match": first.headers["ETag"]}

    unchanged = ask(shop, f"{LIKE}?limit=4", key, headers=known)
    shop.call("PUT", f"/v1/items/{ids(first.json)[0]}", json={"attributes": {"price": 3}})
    changed = ask(shop, f"{LIKE}?limit=4", key, headers=known)
    whatever = ask(shop, f"{LIKE}?limit=4", key, headers={"If-None-Match": "*"})

    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert whatever.status_code == 304
    for response in (first, unchanged):
        assert response.headers["Cache-Control"] == "public, max-age=60, stale-while-revalidate=600"
        assert response.headers["ETag"] == first.headers["ETag"]
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first.headers["ETag"]
    private = shop.call("GET", LIKE)
    assert private.headers["Cache-Control"].startswith("private, max-age=60")
    assert "Authorization" in private.vary


def test_the_newest_items_of_the_same_kind_fill_the_places_left(shop: Akin) -> None:
    few = shop.get(f"{LIKE}?limit=4&min_score=1&fill_by=kind&in_stock=true")
    enough = shop.get(f"{LIKE}?limit=4&fill_by=kind")
    again = shop.get(f"{LIKE}?limit=4&min_score=1&fill_by=kind&in_stock=true")
    unknown = shop.get(f"{LIKE}?limit=4&min_score=1&fill_by=nothing")

    # Of kind 0 are the even ones; 12, 6 and 0 are sold out.
    assert few["hits"] == []
    assert [other["item"]["item_id"] for other in few["others"]] == ["item-10", "item-8", "item-4", "item-2"]
    assert again["others"] == few["others"]
    assert enough["others"] == unknown["others"] == []
    refused(shop.call("GET", f"{LIKE}?fill_by=title"), 422, "invalid_request")
    refused(shop.call("GET", f"{LIKE}?fill_by="), 422, "invalid_request")


def test_many_pictures_of_an_item_leave_the_places_of_other_items_and_its_newest_is_shown(either_akin: Akin) -> None:
    akin = either_akin
    newest = {}
    for number in range(6):
        attributes = json.dumps({"kind": "shoe", "stock": number})
        for view in range(10):
            uploaded = akin.upload(picture(10 * number + view, (16, 16)), f"item-{number}", attributes=attributes)
        newest[f"item-{number}"] = uploaded["image_id"]
    akin.upload(picture(99), "asking", attributes=json.dumps({"kind": "shoe", "stock": 9}))
    akin.work()
    address = "/v1/items/asking/similar?limit=5&min_score=1&fill_by=kind&" + urlencode(
        {"filter": json.dumps({"field": "stock", "gte": 1})}
    )

    ranked = akin.get(address)["others"]
    akin.call("PUT", "/v1/items/item-5", json={"attributes": {"kind": "shoe", "stock": 0}})
    akin.call("PUT", "/v1/items/item-4", json={"attributes": {"kind": "shoe", "stock": 44}})
    (port,) = free_ports(1)
    with configured(akin, milvus_uri=f"http://127.0.0.1:{port}") as client:  # what is kept, as SQL has it now
        kept = client.get(address, headers={"Authorization": f"Bearer {akin.key}"}).json["others"]

    order = ["item-5", "item-4", "item-3", "item-2", "item-1"]
    assert [other["item"]["item_id"] for other in ranked] == order
    assert [other["image"]["id"] for other in ranked] == [newest[item_id] for item_id in order]
    assert [other["item"]["item_id"] for other in kept] == order[1:]
    assert kept[0]["item"]["attributes"]["stock"] == 44


def test_items_that_fill_places_are_no_hits(shop: Akin) -> None:
    scores = [hit["score"] for hit in shop.get(f"{LIKE}?limit=200")["hits"]]

    answer = shop.get(f"{LIKE}?limit=9&min_score={scores[2] - 1e-6}&fill_by=kind")

    others = [other["item"]["item_id"] for other in answer["others"]]
    assert len(ids(answer)) == 3
    assert not {"item-0", *ids(answer)} & set(others)
    kept = shop.get(f"{LIKE}?limit=9&min_score={scores[2] - 1e-6}&fill_by=kind")
    assert (kept["hits"], kept["others"]) == (answer["hits"], answer["others"])


def test_publishable_keys_filter_by_few_conditions(shop: Akin) -> None:
    key = publishable(shop)

    def of(prices: int) -> str:
        return json.dumps({"or": [{"not": {"field": "price", "eq": 10 + price}} for price in range(prices)]})

    few, many = (f"{LIKE}?{urlencode({'filter': of(count)})}" for count in (MOST_CONDITIONS, MOST_CONDITIONS + 1))

    assert len(ids(ask(shop, few, key).json)) == COUNT - 1
    refused(ask(shop, many, key), 422, "invalid_filter")
    assert len(ids(shop.get(many))) == COUNT - 1


def test_answers_have_all_members_of_the_schema_and_no_others(shop: Akin) -> None:
    twin = json.dumps({"kind": "kind 0", "nested": {"text": 'é "quoted" </script>'}})
    shop.upload(picture(0, (192, 160)), "twin", title='"Twin"', url="https://shop.example/ä?b=1&c", attributes=twin)
    shop.work()
    address = f"{LIKE}?limit=9&min_score=0.97&fill_by=kind"

    for answer in (shop.get(address), shop.get(address)):  # ranked, and kept
        # The schema has no member with a default and takes no other, so equal means that none is missing.
        assert SimilarOut.model_validate(answer).model_dump(mode="json") == answer
        (hit,) = answer["hits"]
        assert hit["item"]["title"] == '"Twin"'
        assert hit["item"]["attributes"] == json.loads(twin)
        assert hit["likeness"]["kind"] == "duplicate"
        assert 0.5 <= hit["likeness"]["probability"] <= 1
        assert len(answer["others"]) == COUNT // 2 - 1
    for schema in (SimilarOut, HitOut, OtherOut, ImageOut, ItemOut):
        assert all(member.is_required() for member in schema.model_fields.values())


CLICK = {"kind": "click", "item_id": "item-0", "shown": ["item-4"], "rank": 2, "index": 1}
IMPRESSION = {"kind": "impression", "item_id": "item-0", "shown": ["item-3", "item-4"]}


def stored(akin: Akin) -> list[Event]:
    with akin.services.database.reading() as session:
        return list(session.scalars(select(Event).order_by(Event.id)))


def test_events_are_kept_for_the_days_that_are_asked_for_and_not_at_all_otherwise(akin: Akin) -> None:
    key, sent = publishable(akin), json.dumps({"events": [IMPRESSION, CLICK]})
    assert ask(akin, "/v1/events", key, method="POST", data=sent, content_type="text/plain").status_code == 204
    assert stored(akin) == []

    with configured(akin, event_days=7) as client:
        for content_type in ("text/plain;charset=UTF-8", "application/json"):
            request = {"method": "POST", "data": sent, "content_type": content_type, "client": client}
            assert ask(akin, "/v1/events", key, **request).status_code == 204
    seen, clicked, *_ = kept = stored(akin)
    assert len(kept) == 4
    assert (seen.kind, seen.item_id, seen.shown, seen.rank, seen.index_id) == (
        "impression", "item-0", ["item-3", "item-4"], None, None,
    )  # fmt: skip
    assert (clicked.kind, clicked.shown, clicked.rank, clicked.index_id) == ("click", ["item-4"], 2, 1)
    assert clicked.catalog_id == akin.catalog_id

    with akin.services.database.transaction() as session:
        session.execute(update(Event).where(Event.id < kept[-1].id).values(created_at=now() - timedelta(days=8)))
    services = build(akin.services.settings.model_copy(update={"event_days": 7}))
    housekeeping.sweep(services)
    services.close()
    assert [event.id for event in stored(akin)] == [kept[-1].id]


NO_EVENTS: list[Any] = [
    {},
    {"events": []},
    {"events": [CLICK] * 51},
    {"events": [{**CLICK, "kind": "purchase"}]},
    {"events": [{**CLICK, "shown": []}]},
    {"events": [{**CLICK, "shown": ["a"] * 51}]},
    {"events": [{**CLICK, "shown": ["x" * 500] * 17}]},
    {"events": [{**CLICK, "item_id": "x" * 513}]},
    {"events": [{**CLICK, "rank": 0}]},
    {"events": [{**CLICK, "index": 2**63}]},
    {"events": [{**CLICK, "who": "me"}]},
]


def test_events_that_are_none_are_refused(akin: Akin) -> None:
    key = publishable(akin)
    for body in NO_EVENTS:
        sent = json.dumps(body)
        refused(
            ask(akin, "/v1/events", key, method="POST", data=sent, content_type="text/plain"), 422, "invalid_request"
        )


def test_every_event_of_a_visitor_counts(akin: Akin) -> None:
    key, sent = publishable(akin), json.dumps({"events": [CLICK] * 10})
    with configured(akin, widget_rate=20, event_days=1) as client:
        answers = [
            ask(akin, "/v1/events", key, client=client, method="POST", data=sent, content_type="text/plain")
            for _ in range(6)  # the turn of a minute may lie between them
        ]

    assert [answer.status_code for answer in answers[:2]] == [204] * 2
    refused(answers[-1], 429, "overloaded")
    assert len(stored(akin)) <= 40


def test_visitors_cannot_send_much_at_once(akin: Akin) -> None:
    sent = json.dumps({"events": [{**CLICK, "item_id": "x" * 300_000}]})

    answer = ask(akin, "/v1/events", publishable(akin), method="POST", data=sent, content_type="text/plain")

    refused(answer, 413, "too_large")


def test_the_script_is_small_kept_and_for_any_page(akin: Akin) -> None:
    client = akin.client
    plain = client.get("/widget.js")
    small = client.get("/widget.js", headers={"Accept-Encoding": "gzip, br"})
    unchanged = client.get("/widget.js", headers={"If-None-Match": plain.headers["ETag"]})

    assert gzip.decompress(small.data) == plain.data
    assert len(small.data) <= 5 * 1024
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    for response in (plain, small, unchanged):
        assert "max-age=86400" in response.headers["Cache-Control"]
        assert "Accept-Encoding" in response.vary
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert plain.headers["X-Content-Type-Options"] == "nosniff"


def test_the_pages_that_show_the_widget_make_a_key_for_themselves_once(shop: Akin) -> None:
    browser = create_app(shop.services).test_client()
    assert browser.get("/demo/product/item-1").location == "/signin?next=%2Fdemo%2Fproduct%2Fitem-1"
    searcher = shop.call("POST", "/v1/admin/keys", json={"name": "s", "scopes": ["search"]}).json["key"]

    assert browser.post("/session", json={"key": searcher}).status_code == 204
    before = browser.get("/demo/product/item-1")
    assert browser.post("/session", json={"key": shop.key}).status_code == 204
    pages = [browser.get(path) for path in ("/demo/product/item-1", "/demo/product/item-2", "/widget?item=item-1")]

    made = [row for row in shop.get("/v1/admin/keys")["data"] if row["public"]]
    assert before.status_code == 200
    assert "pk_" not in before.text
    assert len(made) == 1
    assert made[0]["origins"] == ["http://localhost"]
    for page in pages:
        assert page.status_code == 200
        assert made[0]["public"] in page.text
    assert "Item 1" in pages[0].text
    assert browser.get("/demo/product/none").status_code == 404


def test_first_visits_at_once_make_one_key_however_the_address_is_written(shop: Akin) -> None:
    # Made one after the other: CPython 3.11 cannot compile routes in several threads at once.
    clients = [create_app(shop.services).test_client() for _ in range(8)]

    def visit(client: FlaskClient, host: str) -> str:
        headers = {"Authorization": f"Bearer {shop.key}", "Host": host}
        page = client.get("/demo/product/item-1", headers=headers)
        (key,) = set(re.findall(r"pk_[A-Za-z0-9_-]{32}", page.text))
        return key

    with ThreadPoolExecutor(8) as together:
        keys = set(together.map(lambda client: visit(client, "akin.example"), clients))
    keys |= {visit(clients[0], "Akin.Example"), visit(clients[1], "AKIN.example:80")}

    (made,) = [row for row in shop.get("/v1/admin/keys")["data"] if row["public"]]
    assert made["origins"] == ["http://akin.example"]
    assert keys == {made["public"]}


def test_the_pictures_of_deleted_images_are_not_shown(shop: Akin) -> None:
    with shop.services.database.reading() as session:
        image_id = session.scalars(select(Image.id)).first()
    assert shop.call("DELETE", f"/v1/images/{image_id}").status_code == 204

    refused(ask(shop, f"/v1/images/{image_id}/thumbnail", publishable(shop)), 404, "image_not_found")
