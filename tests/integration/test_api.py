"""The API as its callers meet it: keys, lists, errors, and what bad input gets."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from pydantic import SecretStr

from services.api.app import create_app
from services.catalog import keys
from services.catalog.keys import Scope
from services.encode_call import REQUESTS, QueryEncoder
from services.errors import Overloaded
from services.images.pool import DecodePool
from services.queue import alive_key
from services.wiring import build
from tests.integration.conftest import Akin, picture
from tests.servers import wait_until


def key(akin: Akin, *scopes: Scope, catalog: str | None = None) -> str:
    response = akin.call(
        "POST", "/v1/admin/keys", json={"name": "test", "scopes": [s.value for s in scopes], "catalog": catalog}
    )
    assert response.status_code == 201, response.text
    secret: str = response.json["key"]
    return secret


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = response.json
    assert body["status"] == status
    assert body["code"] == code, body
    assert body["detail"]
    return body


def huge_png() -> bytes:
    """A valid PNG header that declares 40,000 × 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def zip_bytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", picture(1))
    return file.getvalue()


BAD_PICTURES = {
    "nothing": (b"", "image_empty"),
    "text": (b"this is not a picture at all", "image_unrecognised"),
    "zip": (zip_bytes(), "image_unrecognised"),
    "truncated": (picture(1, (400, 400))[:-2000], "image_broken"),
    "40,000 x 40,000": (huge_png(), "image_too_many_pixels"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
@pytest.mark.parametrize("path", ["/v1/images", "/v1/search"])
def test_a_bad_picture_is_refused_with_its_reason_and_nothing_breaks(akin: Akin, name: str, path: str) -> None:
    data, code = BAD_PICTURES[name]
    form = {"image": (io.BytesIO(data), "x.jpg"), **({"item_id": "x"} if path == "/v1/images" else {})}

    problem(akin.call("POST", path, data=form), 422, code)

    assert akin.get("/v1/images")["data"] == []
    akin.upload(picture(3), "good")
    akin.work()
    assert akin.search(picture(3))["hits"][0]["score"] >= 0.999


@pytest.mark.parametrize(
    ("fields", "member"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1000000"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"min_score": "2"}, "min_score"),
        ({"min_score": "nan"}, "min_score"),
        ({"limt": "3"}, "limt"),
    ],
)
def test_a_member_out_of_bounds_is_named(akin: Akin, fields: dict[str, str], member: str) -> None:
    response = akin.call("POST", "/v1/search", data={"image": (io.BytesIO(picture(1)), "x.jpg"), **fields})

    assert problem(response, 422, "invalid_request")["errors"][0]["field"] == member


@pytest.mark.parametrize("limit", ["0", "1000000", "-1", "x"])
def test_lists_refuse_bad_limits(akin: Akin, limit: str) -> None:
    for path in ("/v1/images", "/v1/items", "/v1/jobs", "/v1/items/x/similar"):
        problem(akin.call("GET", f"{path}?limit={limit}"), 422, "invalid_request")


def test_a_search_without_a_picture_says_so(akin: Akin) -> None:
    body = problem(akin.call("POST", "/v1/search", json={"limit": 3}), 422, "invalid_request")
    assert "give an image or a query" in body["detail"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"[]", "invalid_request"),
        (b'"x"', "invalid_request"),
        (b"null", "invalid_request"),
        (b'{"image": 3}', "invalid_request"),
        (b'{"image": "not base64!"}', "invalid_request"),
        (b"\xff\xfe", "invalid_json"),
    ],
)
def test_malformed_json_is_refused(akin: Akin, body: bytes, code: str) -> None:
    problem(akin.call("POST", "/v1/search", data=body, content_type="application/json"), 422, code)


def test_a_body_of_another_type_is_refused(akin: Akin) -> None:
    response = akin.call("POST", "/v1/search", data=picture(1), content_type="image/jpeg")
    assert "multipart/form-data" in problem(response, 422, "invalid_request")["detail"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/images/1", "image_not_found"),
        ("/v1/images/1/thumbnail", "image_not_found"),
        ("/v1/images/99999999999999999999999", "not_found"),
        ("/v1/items/none", "item_not_found"),
        ("/v1/items/none/similar", "item_not_found"),
        ("/v1/jobs/none", "job_not_found"),
        ("/v1/images?catalog=none", "catalog_not_found"),
        ("/v1/nothing", "not_found"),
    ],
)
def test_unknown_ids_are_not_found(akin: Akin, path: str, code: str) -> None:
    problem(akin.call("GET", path), 404, code)


def test_a_method_that_a_path_does_not_have(akin: Akin) -> None:
    problem(akin.call("PATCH", "/v1/images"), 405, "method_not_allowed")


def test_a_request_over_the_limit_is_refused(akin: Akin) -> None:
    for path, form in (("/v1/images", "image"), ("/v1/imports", "files")):
        data = {form: (io.BytesIO(picture(1)), "x.jpg")}
        response = akin.call("POST", path, data=data, environ_overrides={"CONTENT_LENGTH": str(10**10)})
        problem(response, 413, "too_large")


def test_text_that_a_database_cannot_hold_is_refused(akin: Akin) -> None:
    response = akin.call("PUT", "/v1/items/x", json={"title": "a\0b"})
    assert problem(response, 422, "invalid_request")["errors"][0]["field"] == "title"
    response = akin.call("PUT", "/v1/items/x", json={"attributes": {"a": ["\0"]}})
    assert problem(response, 422, "invalid_request")["errors"][0]["field"] == "attributes"
    response = akin.call("PUT", "/v1/items/x", data=b'{"title": "\\ud800"}', content_type="application/json")
    problem(response, 422, "invalid_request")
    problem(akin.call("PUT", "/v1/items/a%00b", json={}), 422, "invalid_request")


def test_base64_in_json_does_what_a_form_does(akin: Akin) -> None:
    body = {"image": base64.b64encode(picture(5)).decode(), "item_id": "x", "attributes": {"price": 3}}
    assert akin.call("POST", "/v1/images", json=body).status_code == 202
    akin.work()

    found = akin.call("POST", "/v1/search", json={"image": body["image"], "limit": 1}).json

    assert found["hits"][0]["item"]["attributes"] == {"price": 3}


def test_min_score_cuts_the_list(akin: Akin, pictures: dict[str, bytes]) -> None:
    akin.upload_many(pictures)
    akin.work()
    every = [hit["score"] for hit in akin.search(picture(0), limit=30)["hits"]]

    assert every == sorted(every, reverse=True)
    bound = every[10]
    some = [hit["score"] for hit in akin.search(picture(0), limit=30, min_score=bound - 1e-6)["hits"]]
    assert some == every[:11]


def test_an_import_takes_metadata_from_its_manifest(akin: Akin) -> None:
    manifest = [{"item_id": "a", "title": "A"}, {"attributes": {"n": 1}}]
    akin.upload_many({"one.jpg": picture(1), "dir/two.png": picture(2, kind="PNG")}, manifest=json.dumps(manifest))
    akin.work()

    assert akin.get("/v1/items/a")["title"] == "A"
    two = akin.get("/v1/items/dir%2Ftwo")
    assert two["attributes"] == {"n": 1}
    assert two["images"][0]["format"] == "png"


def test_a_manifest_that_does_not_fit_refuses_the_import(akin: Akin) -> None:
    for manifest in ("{", "{}", '[{"item_id": "a"}, {}]', '[{"itemid": "a"}]', '[{"item_id": ""}]'):
        form = {"files": [(io.BytesIO(picture(1)), "a.jpg")], "manifest": manifest}
        problem(akin.call("POST", "/v1/imports", data=form), 422, "invalid_request")


def test_items_can_be_made_changed_and_listed(akin: Akin) -> None:
    for number in range(5):
        akin.call("PUT", f"/v1/items/item-{number}", json={"title": f"Title {number}", "attributes": {"n": number}})
    akin.call("PUT", "/v1/items/item-3", json={"url": "https://example.com/3"})

    three = akin.get("/v1/items/item-3")
    assert (three["title"], three["url"], three["attributes"]) == ("Title 3", "https://example.com/3", {"n": 3})
    first = akin.get("/v1/items?limit=3")
    second = akin.get(f"/v1/items?limit=3&cursor={first['next_cursor']}")
    assert [item["item_id"] for item in first["data"] + second["data"]] == [f"item-{n}" for n in range(5)]
    assert second["next_cursor"] is None


def test_errors_of_a_job_come_in_pages(akin: Akin) -> None:
    job = akin.upload_many({f"{n}.jpg": b"broken %d" % n for n in range(25)})
    akin.work()

    refs, cursor = [], "0"
    while cursor is not None:
        page = akin.get(f"{job['links']['errors']}?limit=10&cursor={cursor}")
        refs += [entry["ref"] for entry in page["data"]]
        cursor = page["next_cursor"]

    assert refs == [f"{n}.jpg" for n in range(25)]
    assert len(akin.get(job["links"]["self"])["errors"]) == 10


def test_thumbnails_and_contents_are_pictures_without_metadata(akin: Akin) -> None:
    file = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x010E] = "a secret place"
    Pillow.new("RGB", (600, 300), "teal").save(file, "JPEG", exif=exif)
    image = akin.upload(file.getvalue(), "x")["image_id"]

    thumbnail = akin.call("GET", f"/v1/images/{image}/thumbnail?size=128")
    content = akin.call("GET", f"/v1/images/{image}/content")
    original = akin.call("GET", f"/v1/images/{image}/content?original=true")

    assert thumbnail.mimetype == "image/webp"
    assert Pillow.open(io.BytesIO(thumbnail.data)).size == (128, 64)
    assert Pillow.open(io.BytesIO(content.data)).size == (600, 300)
    assert b"secret" not in content.data
    assert original.data == file.getvalue()
    for response in (thumbnail, content, original):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response.headers["Content-Security-Policy"]
    problem(akin.call("GET", f"/v1/images/{image}/thumbnail?size=100"), 422, "invalid_request")


def test_each_scope_opens_its_own_routes_only(akin: Akin) -> None:
    search, ingest, admin = (key(akin, scope) for scope in (Scope.SEARCH, Scope.INGEST, Scope.ADMIN))
    image = {"image": base64.b64encode(picture(1)).decode()}

    def status(method: str, path: str, secret: str, **request: Any) -> int:
        return akin.call(method, path, key=secret, **request).status_code

    assert status("POST", "/v1/search", search, json=image) == 200
    assert status("POST", "/v1/images", search, json={**image, "item_id": "x"}) == 403
    assert status("POST", "/v1/images", ingest, json={**image, "item_id": "x"}) == 202
    assert status("POST", "/v1/search", ingest, json=image) == 403
    assert status("POST", "/v1/admin/reindex", ingest, json={"encoder": "x"}) == 403
    for path in ("/v1/images", "/v1/jobs", "/v1/admin/keys"):
        assert status("GET", path, admin) == 200


def test_without_a_good_key_nothing_opens(akin: Akin) -> None:
    for headers in ({}, {"Authorization": "Bearer akin_wrong"}, {"Authorization": "Basic abc"}):
        response = akin.client.get("/v1/images", headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_key_ends_at_once(akin: Akin) -> None:
    secret = key(akin, Scope.SEARCH)
    listed = akin.get("/v1/admin/keys")["data"]
    (mine,) = [k["id"] for k in listed if secret.startswith(k["prefix"])]

    assert akin.call("DELETE", f"/v1/admin/keys/{mine}").status_code == 204

    assert akin.call("GET", "/v1/images", key=secret).status_code == 401
    problem(akin.call("DELETE", f"/v1/admin/keys/{mine}"), 404, "key_not_found")


def test_secrets_are_nowhere_in_the_database(akin: Akin) -> None:
    secret = key(akin, Scope.SEARCH)
    akin.services.database.close()
    stored = b"".join(path.read_bytes() for path in akin.services.settings.data_dir.glob("akin.db*"))
    assert secret.encode() not in stored


def test_a_key_bound_to_a_catalog_sees_that_one_only(akin: Akin) -> None:
    assert akin.call("POST", "/v1/catalogs", json={"name": "shop-b"}).status_code == 201
    problem(akin.call("POST", "/v1/catalogs", json={"name": "shop-b"}), 409, "catalog_exists")
    bound = key(akin, Scope.SEARCH, Scope.INGEST, catalog="shop-b")
    body = {"image": base64.b64encode(picture(1)).decode(), "item_id": "b-only"}
    assert akin.call("POST", "/v1/images", key=bound, json=body).status_code == 202
    akin.upload(picture(2), "default-only")
    akin.work()

    def found(path: str, **options: Any) -> set[str]:
        hits = akin.call("POST", path, json={"image": body["image"]}, **options).json["hits"]
        return {hit["item"]["item_id"] for hit in hits}

    assert found("/v1/search", key=bound) == {"b-only"}
    assert found("/v1/search?catalog=shop-b") == {"b-only"}
    assert found("/v1/search") == {"default-only"}
    problem(akin.call("GET", "/v1/images?catalog=default", key=bound), 403, "other_catalog")
    assert [c["name"] for c in akin.get("/v1/catalogs", key=bound)["data"]] == ["shop-b"]


def test_a_browser_signs_in_and_other_sites_cannot_use_its_cookie(akin: Akin) -> None:
    browser = create_app(akin.services).test_client()
    assert browser.get("/").location == "/signin"
    assert browser.post("/session", json={"key": "akin_wrong"}).status_code == 401

    signed_in = browser.post("/session", json={"key": akin.key})

    cookie = signed_in.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert akin.key not in cookie
    assert browser.get("/v1/images").status_code == 200
    body = {"image": base64.b64encode(picture(1)).decode()}
    assert browser.post("/v1/search", json=body, headers={"Origin": "http://localhost"}).status_code == 200
    for headers in ({}, {"Origin": "http://localhost:9999"}, {"Origin": "https://evil.example"}):
        problem(browser.post("/v1/search", json=body, headers=headers), 403, "other_origin")
    assert browser.delete("/session").status_code == 204
    assert browser.get("/v1/images").status_code == 401


def test_the_cookie_ends_with_its_key(akin: Akin) -> None:
    browser = akin.client
    assert browser.post("/session", json={"key": akin.key}).status_code == 204
    with akin.services.database.transaction() as session:
        keys.replace_local(session)
    assert browser.get("/v1/images").status_code == 401


def test_readiness_names_what_is_not_ready(akin: Akin) -> None:
    assert akin.client.get("/healthz").status_code == 200
    wait_until(lambda: bool(akin.services.redis.exists(alive_key("query"))), "the query process")
    response = akin.client.get("/readyz")
    assert response.status_code == 503
    parts = response.json["parts"]
    assert {parts[part] for part in ("database", "redis", "milvus", "storage", "query")} == {"ok"}
    assert parts["embed"] != "ok"  # no worker process runs in this test


def test_every_route_is_in_the_openapi_document(akin: Akin) -> None:
    document = akin.client.get("/openapi.json").json

    assert document["openapi"] == "3.1.0"
    described = {(m.upper(), path) for path, item in document["paths"].items() for m in item}
    for rule in akin.client.application.url_map.iter_rules():
        if rule.rule.startswith("/v1/"):
            path = rule.rule.replace("<id64:", "{").replace("<item:", "{").replace("<", "{").replace(">", "}")
            assert any((method, path) in described for method in rule.methods or ()), path
    names = set(document["components"]["schemas"])
    for ref in set(re.findall(r"#/components/schemas/([^\"]+)", json.dumps(document))):
        assert ref in names
    upload = document["paths"]["/v1/images"]["post"]["requestBody"]["content"]
    assert set(upload) == {"multipart/form-data", "application/json"}
    assert upload["multipart/form-data"]["schema"]["properties"]["image"]["contentMediaType"]


def test_whatever_reads_a_body_says_that_it_may_be_too_large(akin: Akin) -> None:
    document = akin.client.get("/openapi.json").json
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    services = build(akin.services.settings.model_copy(update={"max_request_bytes": 1000}))

    client, headers = create_app(services).test_client(), {"Authorization": f"Bearer {akin.key}"}

    large = client.post("/v1/search/batch", json={"searches": ["x" * 1000]}, headers=headers)

    services.close()
    problem(large, 413, "too_large")
    assert all(("413" in operation["responses"]) == ("requestBody" in operation) for operation in operations)


def test_pictures_are_refused_while_too_many_are_decoded_as_documented(
    akin: Akin, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/v1/images/{akin.upload(picture(1), 'one')['image_id']}/content"
    settings = akin.services.settings
    with (
        DecodePool(1, 20, settings.decode_memory, akin.services.limits, patience=0.01) as busy,
        ThreadPoolExecutor(1) as pool,
    ):
        busy.warm_up()
        monkeypatch.setitem(vars(akin.services), "decoder", busy)
        at_work = pool.submit(busy.call, time.sleep, 3)
        wait_until(lambda: akin.call("GET", address).status_code != 200, "the decoder is busy", 3)
        refused = akin.call("GET", address)
        at_work.result()

    problem(refused, 429, "overloaded")
    assert refused.headers["Retry-After"]
    described = akin.client.get("/openapi.json").json["paths"]["/v1/images/{image_id}/content"]["get"]
    assert "429" in described["responses"]


def test_only_what_pages_of_a_shop_ask_takes_a_key_in_the_address(akin: Akin) -> None:
    document = akin.client.get("/openapi.json").json

    (in_address,) = [
        name for name, scheme in document["components"]["securitySchemes"].items() if scheme["type"] == "apiKey"
    ]
    scheme = document["components"]["securitySchemes"][in_address]
    assert (scheme["in"], scheme["name"]) == ("query", "key")
    open_to_it = {
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if {in_address: []} in operation.get("security", document["security"])
    }
    assert open_to_it == {
        ("get", "/v1/items/{item_id}/similar"),
        ("get", "/v1/images/{image_id}/thumbnail"),
        ("post", "/v1/events"),
    }


def test_too_many_waiting_searches_are_refused_early(akin: Akin) -> None:
    full = QueryEncoder(akin.services.redis, queue_limit=0, deadline=1)
    with pytest.raises(Overloaded):
        full.encode("any", np.zeros((32, 32, 3), np.uint8))
    assert akin.services.redis.llen(REQUESTS) == 0


@pytest.mark.parametrize("item_id", ["/lead", "trail/", "a//b", "..", "a/../b", ".", "x/similar", "x" * 513])
def test_an_item_id_that_no_address_can_hold_is_refused(akin: Akin, item_id: str) -> None:
    response = akin.call("POST", "/v1/images", data={"image": (io.BytesIO(picture(1)), "x.jpg"), "item_id": item_id})
    assert problem(response, 422, "invalid_request")["errors"][0]["field"] == "item_id"


@pytest.mark.parametrize(
    ("name", "item_id"),
    [
        ("shoes/red.jpg", "shoes/red"),
        ("../../etc/passwd.jpg", "etc/passwd"),
        ("/abs//x.png", "abs/x"),
        ("similar.jpg", "similar"),
        ("x/similar.jpg", "x/similar-"),
        ("<b>&?#%2F ü.jpg", "<b>&?#%2F ü"),
    ],
)
def test_a_file_without_a_manifest_gets_an_id_that_can_be_asked_for(akin: Akin, name: str, item_id: str) -> None:
    akin.upload_many({name: picture(1)})
    akin.work()

    (item,) = akin.get("/v1/items")["data"]
    assert item["item_id"] == item_id
    assert akin.get(item["links"]["self"])["images"]
    assert akin.get(item["links"]["similar"])["hits"] == []


def test_a_random_wall_is_full_and_differs(akin: Akin, pictures: dict[str, bytes]) -> None:
    akin.upload_many(pictures)
    akin.work()
    for gap in range(3, 18):
        akin.call("DELETE", f"/v1/images/{gap}")

    walls = [[image["id"] for image in akin.get("/v1/images?order=random&limit=10")["data"]] for _ in range(3)]

    assert all(len(set(wall)) == 10 for wall in walls)
    assert len({tuple(wall) for wall in walls}) > 1


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    "attributes",
    [
        nested(40),
        nested(100_000),
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1e999}',
        '{"a": "%s"}' % ("x" * 70_000),
        "[]",
    ],
)
def test_attributes_that_no_answer_could_show_are_refused(akin: Akin, attributes: str) -> None:
    form = {"image": (io.BytesIO(picture(1)), "x.jpg"), "item_id": "x", "attributes": attributes}
    assert problem(akin.call("POST", "/v1/images", data=form), 422, "invalid_request")
    put = akin.call("PUT", "/v1/items/x", data=f'{{"attributes": {attributes}}}', content_type="application/json")
    assert put.status_code == 422, put.text
    assert akin.get("/v1/items")["data"] == []


@pytest.mark.parametrize("path", ["/session", "/v1/search"])
def test_json_nested_without_end_is_refused(akin: Akin, path: str) -> None:
    depth = 1000 if path == "/session" else 100_000
    response = akin.call("POST", path, data="[" * depth, content_type="application/json")
    problem(response, 422, "invalid_json")


def test_a_sign_in_may_not_be_large(akin: Akin) -> None:
    response = akin.client.post("/session", data=b" " * 10_000, content_type="application/json")
    problem(response, 413, "too_large")


def test_parameters_that_a_route_does_not_have_are_refused(akin: Akin) -> None:
    body = {"image": base64.b64encode(picture(1)).decode()}
    problem(akin.call("POST", "/v1/search?limit=1000000", json=body), 422, "invalid_request")
    problem(akin.call("GET", "/v1/catalogs?x=1"), 422, "invalid_request")


def test_comments_without_end_do_not_hold_a_decoder(akin: Akin) -> None:
    hostile = b"<!---->" * 140
    began = time.monotonic()
    response = akin.call("POST", "/v1/search", data={"image": (io.BytesIO(hostile), "x.svg")})
    problem(response, 422, "image_unrecognised")
    assert time.monotonic() - began < 10


def test_the_name_of_the_local_key_cannot_be_taken(akin: Akin) -> None:
    response = akin.call("POST", "/v1/admin/keys", json={"name": keys.LOCAL, "scopes": ["search"]})
    problem(response, 422, "invalid_request")


def test_a_catalog_made_twice_at_once_is_made_once(either_akin: Akin) -> None:
    akin = either_akin
    together = threading.Barrier(4)

    def create(_: int) -> int:
        client = create_app(akin.services).test_client()
        together.wait()
        headers = {"Authorization": f"Bearer {akin.key}"}
        return client.post("/v1/catalogs", json={"name": "twice"}, headers=headers).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(create, range(4))) == [201, 409, 409, 409]


def test_an_upload_racing_a_delete_of_the_same_picture_never_fails(either_akin: Akin) -> None:
    akin = either_akin
    image = akin.upload(picture(1), "x")["image_id"]
    stop = threading.Event()
    headers = {"Authorization": f"Bearer {akin.key}"}

    def delete() -> None:
        client = create_app(akin.services).test_client()
        number = image
        while not stop.is_set():
            answer = client.get("/v1/items/x", headers=headers)
            for found in answer.json.get("images", []):
                number = found["id"]
                assert client.delete(f"/v1/images/{number}", headers=headers).status_code in (204, 404)

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        for _ in range(40):
            akin.upload(picture(1), "x")
    finally:
        stop.set()
        deleting.join()


def test_readiness_says_nothing_of_addresses(akin: Akin) -> None:
    away = akin.services.settings.model_copy(
        update={
            "database_url": SecretStr("postgresql+psycopg://secretuser:secretword@127.0.0.1:9/x"),
            "milvus_uri": "http://127.0.0.1:9",
            "redis_url": SecretStr("redis://:secretword@127.0.0.1:9"),
        }
    )
    services = build(away)
    response = create_app(services).test_client().get("/readyz")
    services.close()
    assert response.status_code == 503
    assert "127.0.0.1" not in response.text
    assert "secret" not in response.text
    assert response.json["parts"]["database"] != "ok"
