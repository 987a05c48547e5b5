"""Adding pictures to the catalog from the browser."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import Site
from tests.e2e.files import drop

pytestmark = pytest.mark.browser


@pytest.fixture
def key_of_an_empty_catalog(site: Site, request: pytest.FixtureRequest) -> str:
    name = f"empty-{abs(hash(request.node.name))}"
    with httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.key}"}) as http:
        http.post("/v1/catalogs", json={"name": name}).raise_for_status()
        made = http.post("/v1/admin/keys", json={"name": name, "scopes": ["search", "ingest"], "catalog": name})
        key: str = made.raise_for_status().json()["key"]
        return key


@pytest.fixture
def empty_page(context: BrowserContext, site: Site, console_errors: list[str], key_of_an_empty_catalog: str) -> Page:
    page = context.new_page()
    page.goto(f"{site.url}/signin#{key_of_an_empty_catalog}")
    return page


def test_an_empty_catalog_says_how_to_fill_it(empty_page: Page) -> None:
    expect(empty_page.get_by_role("heading", name="This catalog is empty")).to_be_visible()
    expect(empty_page.locator("#empty")).to_contain_text("akin ingest FOLDER")


def test_pictures_dropped_on_an_empty_catalog_fill_it(empty_page: Page, site: Site, tmp_path: Path) -> None:
    expect(empty_page.locator("#empty")).to_be_visible()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff cut off")

    drop(empty_page, *site.pictures[:3], broken)

    expect(empty_page.locator("#import-state")).to_have_text("3 pictures added, 1 refused.")
    expect(empty_page.locator("#import-errors li")).to_contain_text("broken.jpg")
    empty_page.keyboard.press("Escape")
    expect(empty_page.locator("#wall a")).to_have_count(3)
    expect(empty_page.locator("#size")).to_contain_text("3 pictures")


def test_added_pictures_are_found(empty_page: Page, site: Site) -> None:
    expect(empty_page.locator("#empty")).to_be_visible()
    empty_page.locator("#add").click()
    empty_page.get_by_label("Choose pictures").set_input_files(site.pictures[:2])
    expect(empty_page.locator("#import-state")).to_have_text("2 pictures added.")
    empty_page.get_by_role("button", name="Close").click()

    empty_page.locator("input[data-search]:visible").set_input_files(site.pictures[1])

    expect(empty_page.locator("#hits a")).to_have_count(2)
    expect(empty_page.locator("#hits a").first).to_contain_text(site.pictures[1].stem)
