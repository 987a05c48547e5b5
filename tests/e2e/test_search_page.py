"""The page at /: every way to ask, and what is shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, Page, expect

from services.client import UploadFile
from tests.e2e.conftest import Site
from tests.e2e.files import drop, paste

pytestmark = pytest.mark.browser


def hits(page: Page) -> Locator:
    return page.locator("#hits a.hit")


def expect_own_picture_first(page: Page, picture: Path) -> None:
    """The first hit is the picture's own item, and as good as equal."""
    expect(hits(page)).to_have_count(24)
    item_id = picture.stem.rpartition("-")[0]
    assert urlencode({"item": item_id}) in (hits(page).first.get_attribute("href") or "")
    assert float(hits(page).first.locator("data").get_attribute("value") or 0) >= 0.999


def choose(page: Page, file: Path) -> None:
    page.locator("input[data-search]:visible").set_input_files(file)


def test_the_wall_shows_pictures_of_the_catalog_in_places_kept_for_them(page: Page) -> None:
    picture = page.locator("#wall img").first

    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") == 256
    assert picture.get_attribute("width") == picture.get_attribute("height") == "256"
    assert picture.get_attribute("alt")
    expect(page.locator("#size")).to_contain_text("in the catalog “default”")


def test_shuffle_draws_other_pictures(page: Page) -> None:
    before = page.locator("#wall a").evaluate_all("links => links.map(link => link.href).join()")

    page.get_by_role("button", name="Shuffle").click()

    page.wait_for_function(
        "before => { const now = [...document.querySelectorAll('#wall a')];"
        " return now.length && now.map(link => link.href).join() !== before; }",
        arg=before,
    )


def test_a_chosen_file_finds_itself_first(page: Page, site: Site) -> None:
    choose(page, site.pictures[6])

    expect_own_picture_first(page, site.pictures[6])
    expect(hits(page).first.locator("data")).to_have_text("100.0%")
    expect(hits(page).first).to_contain_text("€")
    expect(page.locator("#facts")).to_have_text(re.compile(r"24 look-alikes · \d+ ms · \S+@\d+"))
    expect(page.locator("#parts img")).to_have_js_property("naturalWidth", 256)


def test_a_pasted_picture_finds_itself_first(page: Page, site: Site) -> None:
    paste(page, site.pictures[13])

    expect_own_picture_first(page, site.pictures[13])


def test_a_dropped_picture_finds_itself_first(page: Page, site: Site) -> None:
    drop(page, site.pictures[20])

    expect_own_picture_first(page, site.pictures[20])
    expect(page.locator("#drop")).to_be_hidden()


def test_from_picture_to_picture_and_back(page: Page) -> None:
    wall = page.locator("#wall a").evaluate_all("links => links.map(link => link.href)")
    page.locator("#wall a").nth(3).click()
    expect(hits(page)).to_have_count(24)
    first = page.locator("#results-title").text_content()

    hits(page).first.click()
    expect(page.locator("#results-title")).not_to_have_text(first or "")
    expect(hits(page)).to_have_count(24)
    page.go_back()

    expect(page.locator("#results-title")).to_have_text(first or "")
    expect(hits(page)).to_have_count(24)
    page.go_back()
    expect(page.locator("#wall a")).to_have_count(len(wall))
    assert page.locator("#wall a").evaluate_all("links => links.map(link => link.href)") == wall


def test_back_from_a_hit_shows_the_uploaded_picture_again(page: Page, site: Site) -> None:
    choose(page, site.pictures[0])
    expect_own_picture_first(page, site.pictures[0])

    hits(page).nth(1).click()
    expect(page).to_have_url(re.compile(r"item="))
    page.go_back()

    expect(page.locator("#results-title")).to_have_text(site.pictures[0].name)
    expect_own_picture_first(page, site.pictures[0])


def test_an_answer_that_comes_after_going_back_changes_nothing(page: Page, site: Site) -> None:
    # A request that was complete a moment before it is aborted: here none can be aborted.
    page.add_init_script("const send = fetch; window.fetch = (url, options) => send(url, {...options, signal: null})")
    page.reload()
    choose(page, site.pictures[0])
    expect_own_picture_first(page, site.pictures[0])

    page.route("**/v1/items/*", lambda route: (page.evaluate("history.back()"), route.continue_()))
    with page.expect_response("**/v1/items/*"):
        hits(page).nth(1).click()
    page.wait_for_load_state("networkidle")

    expect(page.locator("#results-title")).to_have_text(site.pictures[0].name)
    expect_own_picture_first(page, site.pictures[0])


def test_the_keyboard_is_enough(page: Page) -> None:
    page.locator("#wall a").first.focus()
    page.keyboard.press("Enter")

    expect(hits(page)).to_have_count(24)
    expect(page.locator("#results-title")).to_be_focused()
    expect(page.get_by_role("status").first).to_contain_text("24 look-alikes")


def test_a_link_leads_to_an_items_look_alikes(page: Page, site: Site) -> None:
    item_id = site.pictures[0].stem.rpartition("-")[0]

    page.goto(f"{site.url}/?{urlencode({'item': item_id})}")

    expect(hits(page)).to_have_count(24)
    expect(page.locator("#parts img")).to_be_visible()
    expect(page.locator("#query-views a")).to_have_count(4)
    expect(page.locator(f"#hits a[href*='item={item_id}&']")).to_have_count(0)


def test_what_is_not_a_picture_is_said_so(page: Page, site: Site, console_errors: list[str], tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture at all")

    choose(page, text)

    expect(page.get_by_role("alert")).to_have_text(re.compile("not a picture"))
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    assert all("422" in error for error in console_errors)
    console_errors.clear()
    choose(page, site.pictures[0])
    expect_own_picture_first(page, site.pictures[0])
    expect(page.get_by_role("alert")).to_be_hidden()


def test_an_unknown_item_is_said_so(page: Page, site: Site, console_errors: list[str]) -> None:
    page.goto(f"{site.url}/?item=nowhere")

    expect(page.get_by_role("alert")).to_contain_text("there is no item 'nowhere'")
    assert all("404" in error for error in console_errors)
    console_errors.clear()


def test_a_hostile_title_stays_text(page: Page, site: Site) -> None:
    title = "<img src=/nowhere onerror=alert(1)>"
    item = {"item_id": "a/b <c>&?#%2F", "title": title, "url": "javascript:alert(1)", "attributes": {"brand": title}}
    with site.client() as client:
        client.wait(
            client.import_files([UploadFile("x.jpg", site.pictures[5].read_bytes() + b"\0", item)]).id, interval=0.1
        )

    choose(page, site.pictures[5])
    expect(hits(page)).to_have_count(24)
    hits(page).filter(has_text=title).click()

    expect(page.locator("#results-title")).to_have_text(title)
    expect(hits(page)).to_have_count(24)
    expect(page.locator("#query-link")).to_be_hidden()
