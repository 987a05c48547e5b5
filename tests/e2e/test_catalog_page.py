"""Looking through the catalog, and at one item."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from services.client import UploadFile
from tests.e2e.conftest import Site

pytestmark = pytest.mark.browser


@pytest.fixture
def catalog(page: Page, site: Site) -> Page:
    page.goto(f"{site.url}/catalog")
    expect(page.locator("#pictures a").first).to_be_visible()
    return page


@pytest.fixture
def slashed(site: Site) -> str:
    """An item whose id has all that ids may have."""
    item_id = "shelf/a b&c?#%2F"
    item = {"item_id": item_id, "title": "<b>Bold</b>", "url": "javascript:alert(1)", "attributes": {"sizes": [1, 2]}}
    with site.client() as client:
        client.wait(
            client.import_files([UploadFile("x.jpg", site.pictures[5].read_bytes() + b"\0\0", item)]).id, interval=0.1
        )
    return item_id


def test_all_pictures_come_by_scrolling_each_once(catalog: Page) -> None:
    for piece_end in (48, 96):
        expect(catalog.locator("#pictures a").nth(piece_end - 1)).to_be_attached()
        catalog.locator("#pictures a").nth(piece_end - 1).scroll_into_view_if_needed()

    expect(catalog.get_by_role("button", name="Show more")).to_be_hidden()
    links = catalog.locator("#pictures a").evaluate_all("links => links.map(link => link.href)")
    assert len(links) == len(set(links)) >= 120
    expect(catalog.locator("#shown")).to_have_text(
        re.compile(rf"{len(links)} of {len(links)} pictures shown, of \d+ items")
    )


def test_a_screen_that_shows_more_than_a_piece_is_filled(catalog: Page) -> None:
    catalog.set_viewport_size({"width": 1280, "height": 4000})
    catalog.reload()

    expect(catalog.locator("#pictures a").nth(119)).to_be_visible()
    expect(catalog.get_by_role("button", name="Show more")).to_be_hidden()


def test_coming_back_finds_the_same_place(catalog: Page) -> None:
    catalog.mouse.wheel(0, 1500)
    catalog.wait_for_load_state("networkidle")
    link = catalog.locator("#pictures a").nth(60)
    link.scroll_into_view_if_needed()
    place = catalog.evaluate("scrollY")
    link.click()
    expect(catalog.locator("#item-title")).to_be_visible()

    catalog.go_back()

    expect(catalog.locator("#pictures a").nth(60)).to_be_in_viewport()
    assert abs(catalog.evaluate("scrollY") - place) < 5


def test_an_id_that_is_typed_leads_to_its_item(catalog: Page, slashed: str) -> None:
    catalog.get_by_label("Item id").fill(slashed)
    catalog.keyboard.press("Enter")

    expect(catalog.locator("#item-id")).to_have_text(slashed)


def test_an_item_shows_all_that_is_known_of_it(page: Page, site: Site) -> None:
    item_id = site.pictures[0].stem.rpartition("-")[0]
    page.goto(f"{site.url}/item?id={quote(item_id)}")

    facts = page.locator("#item-facts")
    for name in ("title", "url", "price", "brand", "in_stock", "created"):
        expect(facts.get_by_role("rowheader", name=name, exact=True)).to_be_visible()
    expect(page.locator("#item-views .state")).to_have_text(["searchable"] * 4)
    expect(page.locator("#similar-hits a.hit")).to_have_count(12)
    expect(page.get_by_role("link", name="Open its page")).to_have_attribute(
        "href", re.compile("^https://shop.example/")
    )
    page.locator("#item-views button").nth(2).click()
    expect(page.locator("#item-views button").nth(2)).to_have_attribute("aria-pressed", "true")

    page.get_by_role("link", name="Find look-alikes").click()

    expect(page.locator("#hits a.hit")).to_have_count(24)
    expect(page.locator("#query-views [aria-current]")).to_have_count(1)


def test_an_items_product_page_is_there(page: Page, slashed: str, site: Site) -> None:
    page.goto(f"{site.url}/item?id={quote(slashed, safe='')}")
    with page.expect_navigation() as shown:
        page.get_by_role("link", name="As a product page").click()

    assert shown.value is not None
    assert shown.value.status == 200


def test_a_picture_that_failed_says_why(page: Page, site: Site) -> None:
    item_id = site.pictures[0].stem.rpartition("-")[0]
    failed = {"state": "failed", "error": {"ref": "1", "code": "decode_timeout", "detail": "took longer than 20 s"}}
    page.route(
        re.compile(r"/v1/images/\d+$"),
        lambda route: route.fulfill(json={**route.fetch().json(), **failed}),
    )

    page.goto(f"{site.url}/item?id={quote(item_id)}")

    expect(page.locator("#item-views .state").first).to_have_text("failedtook longer than 20 s")


def test_an_item_with_a_hostile_title_is_deleted_after_asking(page: Page, site: Site, slashed: str) -> None:
    page.goto(f"{site.url}/item?id={quote(slashed, safe='')}")
    expect(page.locator("#item-title")).to_have_text("<b>Bold</b>")
    expect(page.locator("#item-facts")).to_contain_text("javascript:alert(1)")
    expect(page.get_by_role("link", name="Open its page")).to_be_hidden()
    expect(page.locator("#item-facts a")).to_have_count(0)

    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("<b>Bold</b>")
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()

    expect(page).to_have_url(f"{site.url}/catalog")
    assert page.request.get(f"{site.url}/v1/items/{quote(slashed, safe='')}").status == 404


def test_an_item_that_is_not_there_is_said_so(
    context: BrowserContext, page: Page, site: Site, console_errors: list[str]
) -> None:
    page.goto(f"{site.url}/item?id=nowhere")

    expect(page.get_by_role("alert")).to_contain_text("there is no item 'nowhere'")
    assert all("404" in error for error in console_errors)
    console_errors.clear()
