"""The search page of a catalog whose encoder embeds text: what is looked for can be said."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.integration.test_search_text import (
    CATALOG,
    PICTURES,
    Words,
    address,  # noqa: F401 - a fixture
    words,  # noqa: F401 - a fixture
)

pytestmark = pytest.mark.browser


@pytest.fixture
def page(context: BrowserContext, console_errors: list[str], words: Words, address: str) -> Page:  # noqa: F811
    """The search page, signed in to with a key of that catalog."""
    body = {"name": "words", "scopes": ["search"], "catalog": CATALOG}
    made = words.akin.call("POST", "/v1/admin/keys", json=body)
    page = context.new_page()
    page.goto(f"{address}/signin#{made.json['key']}")
    expect(page.locator("#wall a").first).to_be_visible()
    return page


def ids(page: Page) -> list[str]:
    found: list[str] = page.locator("#hits a.hit").evaluate_all(
        "links => links.map(link => new URL(link.href).searchParams.get('item'))"
    )
    return found


def of(answer: Any) -> list[str]:
    return [hit["item"]["item_id"] for hit in answer["hits"]]


def test_a_sentence_finds_what_the_api_finds_and_goes_with_other_parts(page: Page, words: Words) -> None:  # noqa: F811
    page.get_by_label("What is to be seen").fill(" a red shoe ")
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", level=1, name="a red shoe")).to_be_visible()
    expect(page.locator("#hits a.hit")).to_have_count(PICTURES)
    assert ids(page) == of(words.search(query=[{"text": "a red shoe"}]))

    page.get_by_label("Words to add").fill("two lamps on a table")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", level=1, name="2 parts together")).to_be_visible()
    with page.expect_request("**/v1/search") as asked:
        page.get_by_label("Weight of two lamps on a table").fill("-0.5")
    both = [{"text": "a red shoe"}, {"text": "two lamps on a table", "weight": -0.5}]
    assert asked.value.post_data_json["query"] == both
    page.reload()  # the address has it all
    expect(page.locator("#hits a.hit")).to_have_count(PICTURES)
    assert ids(page) == of(words.search(query=both))

    page.get_by_role("button", name="Remove two lamps on a table").click()
    expect(page.get_by_role("heading", level=1, name="a red shoe")).to_be_visible()


def test_what_no_search_takes_is_left_out_of_the_address(page: Page, address: str) -> None:  # noqa: F811
    for broken in ('{"text":" "}', '{"text":5}', '{"text":"a","crop":{"x":0,"y":0,"width":1,"height":1}}'):
        page.goto(f"{address}/?part={broken}")
        expect(page.locator("#wall a").first).to_be_visible()
