"""Which attributes of items a publishable key shows, and that nothing can be learnt of the others with it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from alembic import command
from click.testing import CliRunner
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from services.api.schemas_widget import SimilarOut
from services.bootstrap import alembic_config, migrate
from services.catalog.database import Database
from services.catalog.models import Key
from services.cli.keys import keys as keys_command
from tests.integration.conftest import Akin, picture

SHOP = "https://shop.example"
LIKE = "/v1/items/item-0/similar"
ATTRIBUTES = {"price": 9.5, "currency": "EUR", "in_stock": True, "kind": "mug", "cost": 2.25, "supplier": {"name": "A"}}
SHOWN = ["price", "currency", "in_stock"]


@pytest.fixture
def shop(akin: Akin) -> Akin:
    """Four items, of which the shop knows what nobody else is to know."""
    for number in range(4):
        akin.upload(picture(number), f"item-{number}", attributes=json.dumps(ATTRIBUTES))
    akin.work()
    return akin


def publishable(akin: Akin, attributes: list[str] | None = None) -> str:
    body: dict[str, Any] = {"name": "shop", "scopes": ["widget"], "origins": [SHOP]}
    response = akin.call(
        "POST", "/v1/admin/keys", json=body | ({} if attributes is None else {"attributes": attributes})
    )
    assert response.status_code == 201, response.text
    made: str = response.json["key"]
    return made


def ask(akin: Akin, key: str, headers: dict[str, str] | None = None, **query: Any) -> TestResponse:
    return akin.client.get(f"{LIKE}?{urlencode(query | {'key': key})}", headers={"Origin": SHOP, **(headers or {})})


def shown(response: TestResponse) -> list[Any]:
    """The attributes of everything that is shown."""
    assert response.status_code == 200, response.text
    SimilarOut.model_validate_json(response.data)
    found = [hit["item"]["attributes"] for hit in (*response.json["hits"], *response.json["others"])]
    assert found
    return found


def test_a_publishable_key_shows_what_the_widget_shows_unless_told_otherwise(shop: Akin) -> None:
    mine = shop.get(LIKE)["hits"]

    assert shown(ask(shop, publishable(shop))) == [{name: ATTRIBUTES[name] for name in SHOWN}] * 3
    # What was written out for one key is not what another one shows.
    assert shown(ask(shop, publishable(shop, ["price", "kind"]))) == [{"price": 9.5, "kind": "mug"}] * 3
    assert shown(ask(shop, publishable(shop, []))) == [{}] * 3
    assert [hit["item"]["attributes"] for hit in mine] == [ATTRIBUTES] * 3


def test_items_that_fill_places_show_no_more_than_hits(shop: Akin) -> None:
    key = publishable(shop, ["kind"])

    answer = ask(shop, key, min_score=1, fill_by="kind")

    assert answer.json["hits"] == []
    assert shown(answer) == [{"kind": "mug"}] * 3


def test_answers_that_show_different_attributes_have_different_tags(shop: Akin) -> None:
    some, more = publishable(shop, ["price"]), publishable(shop, ["price", "kind"])
    tag = ask(shop, some).headers["ETag"]

    assert ask(shop, some, {"If-None-Match": tag}).status_code == 304
    assert ask(shop, more, {"If-None-Match": tag}).status_code == 200
    assert shop.call("GET", LIKE, headers={"If-None-Match": tag}).status_code == 200


COSTLY = {"field": "cost", "gt": 2}
HIDDEN = [
    {"filter": json.dumps(COSTLY)},
    {"filter": json.dumps({"field": "attributes.cost", "exists": True})},
    {"filter": json.dumps({"field": "supplier.name", "eq": "A"})},
    {"filter": json.dumps({"field": ["supplier", "name"], "eq": "A"})},
    {"filter": json.dumps({"not": {"or": [{"field": "price", "lt": 10}, {"and": [COSTLY]}]}})},
    {"fill_by": "supplier.name"},
    {"fill_by": "cost", "min_score": 1},
    # An attribute that is called like what is shown of every item.
    {"filter": json.dumps({"field": "attributes.title", "exists": True})},
]


def test_what_a_key_does_not_show_cannot_be_found_out_by_asking_for_it(shop: Akin) -> None:
    key = publishable(shop)

    for query in HIDDEN:
        response = ask(shop, key, **query)
        assert (response.status_code, response.json["code"]) == (403, "hidden_attribute"), query
        assert response.headers["Access-Control-Allow-Origin"] == SHOP
        assert shop.call("GET", f"{LIKE}?{urlencode(query)}").status_code == 200
    refused = ask(shop, publishable(shop, ["price"]), in_stock="true")
    assert (refused.status_code, refused.json["code"]) == (403, "hidden_attribute")


def test_filters_may_ask_for_what_is_shown_and_for_members_of_items(shop: Akin) -> None:
    key = publishable(shop, ["price", "in_stock", "supplier"])

    for wanted in (
        {"field": "price", "lt": 10},
        {"field": "supplier.name", "eq": "A"},
        {"not": {"field": "item_id", "eq": "item-1000"}},
        {"field": "updated_at", "gt": "2020-01-01T00:00:00Z"},
    ):
        assert len(shown(ask(shop, key, filter=json.dumps(wanted), in_stock="true"))) == 3


def test_keys_are_listed_with_what_they_show(shop: Akin) -> None:
    publishable(shop)
    publishable(shop, ["price", "price", "kind"])

    listed = {row["name"]: row["attributes"] for row in shop.get("/v1/admin/keys")["data"] if row["public"] is None}
    public = [row["attributes"] for row in shop.get("/v1/admin/keys")["data"] if row["public"]]

    assert public == [SHOWN, ["price", "kind"]]
    assert set(map(str, listed.values())) == {"None"}
    for refused in (
        {"scopes": ["search"], "attributes": ["price"]},
        {"scopes": ["widget"], "origins": [SHOP], "attributes": [""]},
        {"scopes": ["widget"], "origins": [SHOP], "attributes": ["a"] * 101},
    ):
        assert shop.call("POST", "/v1/admin/keys", json={"name": "x", **refused}).status_code == 422


def test_a_key_without_a_list_shows_no_attribute(shop: Akin) -> None:
    key = publishable(shop)
    with shop.services.database.transaction() as session:
        session.execute(update(Key).values(attributes=None))

    assert shown(ask(shop, key)) == [{}] * 3


def test_keys_of_earlier_releases_show_what_the_widget_shows(database_url: str) -> None:
    database = Database(database_url)
    migrate(database)
    with database.transaction() as session:
        session.add(Key(name="shop", prefix="pk_", sha256="1", scopes=["widget"], public="pk_1", origins=[SHOP]))
        session.add(Key(name="secret", prefix="akin_", sha256="2", scopes=["admin"]))

    for step, revision in ((command.downgrade, "0004"), (command.upgrade, "head")):
        with database.engine.connect() as connection:
            step(alembic_config(connection), revision)
            connection.commit()

    with database.reading() as session:
        assert session.scalars(select(Key.attributes).order_by(Key.id)).all() == [SHOWN, None]
    database.close()


def test_the_command_line_makes_keys_that_show_chosen_attributes(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKIN_DATA_DIR", str(akin.services.settings.data_dir))
    create = ["create", "shop", "--publishable", "--origin", SHOP]

    plain = CliRunner().invoke(keys_command, create)
    chosen = CliRunner().invoke(keys_command, [*create, "--attribute", "price", "--attribute", "kind"])
    wrong = CliRunner().invoke(keys_command, ["create", "x", "--scope", "search", "--attribute", "price"])

    assert (plain.exit_code, chosen.exit_code, wrong.exit_code) == (0, 0, 2), (plain.output, chosen.output)
    public = {row["public"]: row["attributes"] for row in akin.get("/v1/admin/keys")["data"] if row["public"]}
    assert public == {plain.output.strip(): SHOWN, chosen.output.strip(): ["price", "kind"]}
    assert "price, kind" in " ".join(CliRunner().invoke(keys_command, ["list"]).output.split())
