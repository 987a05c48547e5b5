"""Finding duplicates at /duplicates."""

from __future__ import annotations

from io import BytesIO

import httpx
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from services.client import AkinClient, UploadFile
from tests.e2e.conftest import Site

pytestmark = pytest.mark.browser


@pytest.fixture
def page_of_a_catalog_with_copies(context: BrowserContext, site: Site, console_errors: list[str]) -> Page:
    """Three items, of which two share a picture in two qualities, and the third has one twice."""
    with httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.key}"}) as http:
        http.post("/v1/catalogs", json={"name": "copies"}).raise_for_status()
        made = http.post("/v1/admin/keys", json={"name": "copies", "scopes": ["search", "ingest"], "catalog": "copies"})
    key = made.raise_for_status().json()["key"]
    worse = BytesIO()
    Image.open(site.pictures[0]).save(worse, "JPEG", quality=70)
    sofa, other = site.pictures[0].read_bytes(), site.pictures[40].read_bytes()
    files = [
        UploadFile("one.jpg", sofa, {"item_id": "one"}),
        UploadFile("two.jpg", worse.getvalue(), {"item_id": "two"}),
        UploadFile("three.jpg", other, {"item_id": "three"}),
        UploadFile("again.jpg", other + b"\0", {"item_id": "three"}),
    ]
    with AkinClient(site.url, key) as client:
        assert client.wait(client.import_files(files).id, interval=0.1).indexed == len(files)
    page = context.new_page()
    page.goto(f"{site.url}/signin?next=/duplicates#{key}")
    return page


def test_copies_are_found_grouped_and_counted(page_of_a_catalog_with_copies: Page, site: Site) -> None:
    page = page_of_a_catalog_with_copies
    expect(page.locator("#summary")).to_have_text("Nobody has looked for duplicates yet.")

    page.get_by_label("From which likeness on").fill("0.9")
    page.get_by_role("button", name="Find duplicates").click()

    expect(page.locator(".job .state")).to_have_text("Done")
    expect(page.locator(".job .job-line")).to_contain_text("steps")
    expect(page.locator(".cluster")).to_have_count(2)
    expect(page.locator("#summary")).to_contain_text("2 groups of 4 pictures")
    expect(page.locator("#clusters-title")).to_be_focused()
    page.get_by_label("Only between different items").check()
    expect(page.locator(".cluster")).to_have_count(1)
    expect(page.locator(".cluster h3")).to_contain_text("2 pictures · 2 items")
    page.reload()
    expect(page.locator(".cluster")).to_have_count(2)

    page.locator(".cluster a").first.click()

    expect(page.locator("#item-title")).to_be_visible()
