"""The search page beyond one picture: several of them, parts of them, conditions, explanations, further pages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from tests.e2e.conftest import Site
from tests.e2e.files import drop

pytestmark = pytest.mark.browser


class Quiet(SimpleHTTPRequestHandler):
    """A folder on the web, without a log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop(site: Site) -> Iterator[str]:
    """The address of a web server that has the sample pictures."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site.pictures[0].parents[1])))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def found(page: Page, site: Site) -> Page:
    """The look-alikes of an item."""
    page.goto(f"{site.url}/?item={item_of(site.pictures[0])}")
    expect(hits(page)).to_have_count(24)
    return page


def item_of(picture: Path) -> str:
    return picture.stem.rpartition("-")[0]


def hits(page: Page) -> Locator:
    return page.locator("#hits a.hit")


def ids(page: Page) -> list[str]:
    """The items of the hits, in their order."""
    links: list[str] = hits(page).evaluate_all(
        "links => links.map(link => new URL(link.href).searchParams.get('item'))"
    )
    return links


def settled(page: Page) -> None:
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def refine(page: Page) -> None:
    page.locator("#refine summary").click()


def price_below(page: Page, bound: str) -> None:
    """Add this condition; it is asked for once its last field is left."""
    page.get_by_role("button", name="Add a condition").click()
    page.get_by_label("Field").fill("price")
    page.get_by_label("Comparison").select_option("is less than")
    page.get_by_label("Value").fill(bound)


def crop(page: Page) -> Locator:
    page.get_by_role("button", name=re.compile("crop", re.IGNORECASE)).first.click()
    expect(page.locator("#crop")).to_be_visible()
    return page.locator("#crop-frame")


def test_more_and_less_like_a_hit_change_the_search_and_back_undoes_it(found: Page) -> None:
    before = ids(found)
    found.get_by_role("button", name=re.compile("Less like this")).first.click()

    expect(found.locator("#results-title")).to_have_text("2 pictures together")
    expect(found.locator("#parts output")).to_have_text(["more like this, 1.0", "less like this, 0.5"])
    settled(found)
    assert ids(found) != before

    found.get_by_role("button", name=re.compile("More like this")).first.click()
    expect(found.locator("#parts > li")).to_have_count(3)
    found.go_back()
    expect(found.locator("#parts > li")).to_have_count(2)
    found.go_back()
    expect(found.locator("#parts > li")).to_have_count(1)
    assert ids(found) == before


def test_sliders_weigh_pictures_by_the_keyboard_and_stay_in_the_address(found: Page) -> None:
    found.get_by_role("button", name=re.compile("More like this")).nth(5).click()
    slider = found.get_by_role("slider", name=re.compile("Weight of")).nth(1)
    expect(slider).to_have_value("0.5")
    settled(found)

    slider.focus()
    with found.expect_request("**/v1/search") as asked:
        slider.press("ArrowLeft")

    assert [part.get("weight", 1) for part in asked.value.post_data_json["query"]] == [1, 0.4]
    expect(slider).to_be_focused()
    expect(slider).to_have_attribute("aria-valuetext", "more like this, 0.4")
    expect(found).to_have_url(re.compile("weight%22%3A0.4"))
    found.reload()
    expect(found.get_by_role("slider", name=re.compile("Weight of")).nth(1)).to_have_value("0.4")


def test_a_picture_that_is_taken_away_leaves_an_ordinary_search(found: Page, site: Site) -> None:
    found.get_by_role("button", name=re.compile("More like this")).first.click()
    expect(found.locator("#parts > li")).to_have_count(2)

    found.get_by_role("button", name=re.compile("^Remove ")).last.click()

    expect(found.locator("#parts > li")).to_have_count(1)
    expect(found).to_have_url(re.compile(rf"{site.url}/\?item={item_of(site.pictures[0])}"))


def test_pictures_that_are_dropped_together_are_searched_with_together(page: Page, site: Site) -> None:
    drop(page, site.pictures[0], site.pictures[8])

    expect(page.locator("#results-title")).to_have_text("2 pictures together")
    settled(page)
    assert set(ids(page)[:2]) == {item_of(site.pictures[0]), item_of(site.pictures[8])}


def test_a_search_by_upload_survives_reloading_and_leaving_the_page(page: Page, site: Site) -> None:
    page.locator("input[data-search]:visible").set_input_files(site.pictures[4])
    expect(hits(page)).to_have_count(24)
    before = ids(page)

    page.reload()
    expect(hits(page)).to_have_count(24)
    expect(page.locator("#results-title")).to_have_text(site.pictures[4].name)
    page.get_by_role("link", name="Catalog").click()
    expect(page).to_have_url(f"{site.url}/catalog")
    page.go_back()

    expect(hits(page)).to_have_count(24)
    assert ids(page) == before


def test_signing_out_forgets_the_pictures_that_were_searched_with(page: Page, site: Site) -> None:
    page.locator("input[data-search]:visible").set_input_files(site.pictures[4])
    expect(hits(page)).to_have_count(24)
    address = page.url
    page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{site.url}/signin")

    page.goto(site.link)
    expect(page.locator("#wall a").first).to_be_visible()
    page.goto(address)

    expect(page.get_by_role("alert")).to_contain_text("no longer has the picture")


def test_the_address_of_a_picture_finds_it(page: Page, site: Site, shop: str) -> None:
    address = f"{shop}/{site.pictures[12].parent.name}/{site.pictures[12].name}"
    page.get_by_label("Address of a picture").fill(address)
    page.keyboard.press("Enter")

    expect(hits(page)).to_have_count(24)
    assert ids(page)[0] == item_of(site.pictures[12])
    expect(page.locator("#parts img")).to_have_js_property("naturalWidth", 256)
    expect(page.locator("#query-note")).to_have_text(shop.removeprefix("http://"))


def test_a_percent_sign_in_an_address_stays_one(page: Page, site: Site, shop: str) -> None:
    name = "100%.jpg"
    shutil.copy(site.pictures[12], site.pictures[0].parents[1] / name)
    page.get_by_label("Address of a picture").fill(f"{shop}/{name}")
    page.get_by_role("button", name="Search", exact=True).click()

    expect(hits(page)).to_have_count(24)
    expect(page.locator("#results-title")).to_have_text(name)


def test_an_address_that_is_pasted_is_searched_with(page: Page, site: Site, shop: str) -> None:
    address = f"{shop}/{site.pictures[12].parent.name}/{site.pictures[12].name}"
    page.evaluate(
        "text => { const data = new DataTransfer(); data.setData('text/plain', text);"
        " document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true })); }",
        address,
    )

    expect(hits(page)).to_have_count(24)
    assert ids(page)[0] == item_of(site.pictures[12])


def test_a_crop_by_the_keyboard_is_announced_and_searched_with(found: Page) -> None:
    frame = crop(found)
    expect(frame).to_be_focused()

    found.keyboard.press("ArrowRight")
    found.keyboard.press("Shift+ArrowUp")
    expect(found.locator("#crop-said")).to_have_text("70% wide and 68% high, 17% from the left, 15% from the top")
    with found.expect_request("**/v1/search") as asked:
        found.keyboard.press("Enter")

    (part,) = asked.value.post_data_json["query"]
    assert part["crop"] == {"x": 0.17, "y": 0.15, "width": 0.7, "height": 0.68}
    assert "image_id" in part
    settled(found)
    expect(found.get_by_role("button", name=re.compile("Change the crop"))).to_be_visible()


def test_a_crop_is_drawn_moved_and_resized_with_the_pointer(found: Page) -> None:
    crop(found)
    box = found.locator("#crop-stage").bounding_box()
    assert box is not None
    place = lambda x, y: (box["x"] + x * box["width"], box["y"] + y * box["height"])  # noqa: E731

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        found.mouse.move(*place(*start))
        found.mouse.down()
        found.mouse.move(*place(*end), steps=4)
        found.mouse.up()

    drag((0.05, 0.05), (0.45, 0.25))  # outside of what is chosen: a new rectangle
    expect(found.locator("#crop-said")).to_have_text("40% wide and 20% high, 5% from the left, 5% from the top")
    drag((0.25, 0.15), (0.35, 0.35))  # inside: moved
    expect(found.locator("#crop-said")).to_have_text("40% wide and 20% high, 15% from the left, 25% from the top")
    drag((0.55, 0.45), (0.95, 0.95))  # its lower right corner
    expect(found.locator("#crop-said")).to_have_text("80% wide and 70% high, 15% from the left, 25% from the top")
    drag((0.5, 0.5), (0.0, 1.0))  # no further than the edge
    expect(found.locator("#crop-said")).to_have_text("80% wide and 70% high, 0% from the left, 30% from the top")

    address = found.url
    found.keyboard.press("Escape")
    expect(found.locator("#crop")).to_be_hidden()
    assert found.url == address


def test_a_crop_of_a_picture_that_the_browser_cannot_show_is_declined(page: Page, site: Site, tmp_path: Path) -> None:
    photo = tmp_path / "photo.tiff"
    with Image.open(site.pictures[4]) as picture:
        picture.save(photo)
    page.locator("input[data-search]:visible").set_input_files(photo)
    expect(hits(page)).to_have_count(24)

    page.get_by_role("button", name="Crop of photo.tiff").click()

    expect(page.get_by_role("alert")).to_contain_text("This browser cannot show the picture")
    expect(page.locator("#crop")).to_be_hidden()
    expect(hits(page)).to_have_count(24)


def test_a_crop_of_a_picture_that_is_gone_from_its_address_is_declined(
    page: Page, site: Site, shop: str, console_errors: list[str]
) -> None:
    address = f"{shop}/{site.pictures[12].parent.name}/{site.pictures[12].name}"
    page.route(address, lambda route: route.abort())
    page.get_by_label("Address of a picture").fill(address)
    page.keyboard.press("Enter")
    expect(hits(page)).to_have_count(24)

    page.get_by_role("button", name=re.compile("^Crop of ")).click()

    expect(page.get_by_role("alert")).to_contain_text("This browser cannot show the picture")
    expect(page.locator("#crop")).to_be_hidden()
    assert all("ERR_FAILED" in text for text in console_errors)  # said by the browser itself
    console_errors.clear()


def test_a_browser_of_early_2023_searches_by_address(page: Page, site: Site, shop: str) -> None:
    page.add_init_script("delete URL.canParse")
    address = f"{shop}/{site.pictures[12].parent.name}/{site.pictures[12].name}"

    page.goto(f"{site.url}/?{urlencode({'part': json.dumps({'url': address})})}")

    expect(hits(page)).to_have_count(24)
    assert ids(page)[0] == item_of(site.pictures[12])


def test_conditions_on_items_filter_the_hits_and_stay_when_going_on_from_a_hit(found: Page) -> None:
    refine(found)
    found.get_by_role("button", name="Add a condition").click()
    found.get_by_label("Field").fill("brand")
    brands = found.locator("datalist[id^=values] option").evaluate_all("options => options.map(one => one.value)")
    assert "Northwick" in brands
    found.get_by_label("Value").fill("Northwick")
    with found.expect_request("**/v1/search") as asked:
        found.keyboard.press("Tab")

    assert asked.value.post_data_json["filter"] == {"field": "brand", "eq": "Northwick"}
    settled(found)
    expect(hits(found).filter(has_not_text="Northwick")).to_have_count(0)
    assert hits(found).count() > 0
    hits(found).first.click()
    expect(found.locator("#refined")).to_have_text("1")
    settled(found)
    expect(hits(found).filter(has_not_text="Northwick")).to_have_count(0)

    with found.expect_request("**/v1/search") as asked:
        found.get_by_role("button", name="Remove this condition").click()
    assert "filter" not in asked.value.post_data_json


def test_numbers_are_compared_as_numbers(found: Page) -> None:
    refine(found)
    price_below(found, "30")
    with found.expect_request("**/v1/search") as asked:
        found.keyboard.press("Tab")

    assert asked.value.post_data_json["filter"] == {"field": "price", "lt": 30}
    settled(found)
    assert 0 < hits(found).count() < 24


def test_where_nothing_meets_the_conditions_they_are_what_is_named(found: Page) -> None:
    refine(found)
    price_below(found, "abc")
    found.keyboard.press("Tab")

    expect(found.locator("#facts")).to_contain_text("Nothing meets these conditions.")
    expect(hits(found)).to_have_count(0)


def test_a_score_is_rounded_and_100_for_equal_pictures_only(found: Page) -> None:
    scores = [0.70586, 0.99949, 0.9999, 0.99996, 1, -0.2]
    percents = found.evaluate(
        "async scores => { const { percent } = await import('/static/cards.js'); return scores.map(percent); }", scores
    )

    assert percents == ["70.6%", "99.9%", "99.9%", "100.0%", "100.0%", "0.0%"]


def test_variety_reorders_the_hits(found: Page) -> None:
    before = ids(found)
    refine(found)
    found.get_by_label("Variety among the hits").focus()
    with found.expect_response("**/v1/search"):
        found.keyboard.press("End")

    expect(found).to_have_url(re.compile("diversity=1"))
    settled(found)
    assert ids(found) != before
    assert ids(found)[0] == before[0]


def test_an_explanation_draws_what_is_alike_over_the_pictures(found: Page) -> None:
    refine(found)
    found.get_by_label("Show what is alike in the pictures").check()

    expect(found.locator("#legend-text")).to_contain_text("in common")
    expect(found.locator("#hits canvas")).to_have_count(5)
    expect(found.locator("#timings")).to_contain_text("candidates")
    drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
    # Many colours, since values between the cells are interpolated.
    found.wait_for_function(f"() => ({drawn})(document.querySelector('#parts canvas')) > 50")
    assert found.locator("#hits canvas").first.evaluate(drawn) > 50
    found.get_by_label("Show what is alike in the pictures").uncheck()
    expect(found.locator("#hits canvas")).to_have_count(0)


def test_the_next_page_is_added_without_repeating_anything(page: Page, site: Site) -> None:
    page.locator("input[data-search]:visible").set_input_files(site.pictures[0])
    expect(hits(page)).to_have_count(24)

    page.get_by_role("button", name="Show more").click()

    expect(hits(page).nth(24)).to_be_focused()
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    assert len(ids(page)) == len(set(ids(page))) >= 30
    expect(page.locator("#facts")).to_contain_text(f"{len(ids(page))} look-alikes")


def test_likeness_is_said_of_hits_and_nothing_of_what_is_unrelated(page: Page, site: Site) -> None:
    kinds = [("duplicate", 0.97), ("same_item", 0.81), ("similar", 0.6), ("unrelated", 0.9)]

    def calibrated(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for hit, (kind, probability) in zip(body["hits"], kinds, strict=False):
            hit["likeness"] = {"kind": kind, "probability": probability}
        for hit in body["hits"][len(kinds) :]:
            hit["likeness"] = None
        route.fulfill(response=answer, json=body)

    page.route("**/v1/search", calibrated)
    page.goto(f"{site.url}/?item={item_of(site.pictures[0])}")

    expect(page.locator("#hits .badge")).to_have_text(
        ["Duplicate, 97% certain", "Same item, 81% certain", "Similar, 60% certain"]
    )
    expect(page.locator("#hits .badge").first).to_have_attribute("title", "97% certain")


def test_curl_and_python_ask_for_what_the_page_shows(page: Page, site: Site) -> None:
    page.locator("input[data-search]:visible").set_input_files(site.pictures[4])
    expect(hits(page)).to_have_count(24)
    refine(page)
    page.get_by_role("button", name="Add a condition").click()
    page.get_by_label("Field").fill("in_stock")
    page.get_by_label("Value").fill("true")
    with page.expect_response("**/v1/search"):
        page.keyboard.press("Tab")
    settled(page)
    page.locator("#request summary").click()
    curl, python = page.locator("#curl").inner_text(), page.locator("#python").inner_text()
    assert site.key not in curl + python

    shell = {"cwd": site.pictures[4].parent, "env": {**os.environ, "AKIN_API_KEY": site.key}, "text": True}
    answer = subprocess.run(["bash", "-c", curl], capture_output=True, check=True, **shell)
    printed = subprocess.run([sys.executable, "-c", python], capture_output=True, check=True, **shell)

    assert [hit["item"]["item_id"] for hit in json.loads(answer.stdout)["hits"]] == ids(page)
    assert [line.split()[1] for line in printed.stdout.splitlines()] == ids(page)


def test_an_address_that_somebody_broke_shows_the_wall(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?part=nonsense&part=%7B%22weight%22%3A7%7D&where=%5B1%5D&diversity=x")

    expect(page.locator("#wall a")).to_have_count(24)
