"""Adding pictures at /upload, and following jobs."""

from __future__ import annotations

import zipfile
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
def empty(context: BrowserContext, site: Site, console_errors: list[str], key_of_an_empty_catalog: str) -> Page:
    """The search page of an empty catalog."""
    page = context.new_page()
    page.goto(f"{site.url}/signin#{key_of_an_empty_catalog}")
    expect(page.locator("#empty")).to_be_visible()
    return page


@pytest.fixture
def upload(empty: Page, site: Site) -> Page:
    """The upload page of an empty catalog."""
    empty.goto(f"{site.url}/upload")
    expect(empty.locator("#no-jobs")).to_be_visible()
    return empty


def test_an_empty_catalog_says_how_to_fill_it(empty: Page, site: Site) -> None:
    expect(empty.get_by_role("heading", name="This catalog is empty")).to_be_visible()
    expect(empty.locator("#empty")).to_contain_text("akin ingest FOLDER")

    empty.get_by_role("link", name="Add pictures").click()

    expect(empty).to_have_url(f"{site.url}/upload")


def test_pictures_dropped_on_an_empty_catalog_fill_it(empty: Page, site: Site, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff cut off")

    drop(empty, *site.pictures[:3], broken)

    expect(empty).to_have_url(f"{site.url}/upload")
    job = empty.locator(".job").first
    expect(job.locator(".state")).to_have_text("Done, with failures")
    expect(job.locator(".job-line")).to_have_text("4 of 4 pictures · 3 searchable · 1 failed")
    job.locator("summary").click()
    expect(job.locator(".failures li")).to_contain_text("broken.jpg")
    expect(job.locator(".reasons li")).to_have_count(1)
    expect(job.locator(".job-links a")).to_have_text([picture.stem for picture in site.pictures[:3]])
    expect(empty.locator("#size")).to_contain_text("3 pictures")
    expect(empty.get_by_role("status")).to_have_text("4 of 4 pictures · 3 searchable · 1 failed")


def test_an_upload_leads_to_its_items(upload: Page, site: Site) -> None:
    upload.get_by_label("Choose files").set_input_files(site.pictures[:2])
    job = upload.locator(".job").first
    expect(job.locator(".job-line")).to_have_text("2 of 2 pictures · 2 searchable")

    job.get_by_role("link", name=site.pictures[1].stem).click()

    expect(upload.locator("#item-title")).to_have_text(site.pictures[1].stem)
    expect(upload.locator("#item-views .state")).to_have_text("searchable")


def test_an_archive_goes_in_as_it_is(upload: Page, site: Site, tmp_path: Path) -> None:
    archive = tmp_path / "shop.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for picture in site.pictures[:5]:
            packed.write(picture, f"photos/{picture.name}")

    upload.get_by_label("Choose files").set_input_files(archive)

    expect(upload.locator(".job").first.locator(".job-line")).to_have_text("5 of 5 pictures · 5 searchable")
    upload.reload()
    expect(upload.locator(".job h3").first).to_have_text("Import of an archive")
    upload.goto(f"{site.url}/item?id=photos/{site.pictures[0].stem}")
    expect(upload.locator("#item-title")).to_have_text(f"photos/{site.pictures[0].stem}")


def test_more_files_than_one_request_takes_are_one_upload(upload: Page, site: Site) -> None:
    upload.get_by_label("Choose files").set_input_files(site.pictures[:60])

    job = upload.locator(".job").first
    expect(job.locator(".job-line")).to_have_text("60 of 60 pictures · 60 searchable")
    expect(job.get_by_role("link", name="all pictures")).to_have_attribute("href", "/catalog")
    upload.reload()
    expect(upload.locator(".job")).to_have_count(2)


def test_files_that_are_there_fail_where_nothing_is_to_be_changed(upload: Page, site: Site) -> None:
    upload.get_by_label("Choose files").set_input_files(site.pictures[0])
    expect(upload.locator(".job .job-line").first).to_have_text("1 of 1 pictures · 1 searchable")

    upload.get_by_label("Items that are there already").select_option("create")
    upload.get_by_label("Choose files").set_input_files(site.pictures[0])

    job = upload.locator(".job").first
    expect(job.locator(".state")).to_have_text("Done, with failures")
    job.get_by_role("button", name="Retry what failed").click()
    expect(job.locator(".state")).to_have_text("Done, with failures")


def test_replacing_the_catalog_is_asked_about_first(upload: Page, site: Site) -> None:
    upload.get_by_label("Choose files").set_input_files(site.pictures[:2])
    expect(upload.locator(".job .job-line").first).to_contain_text("2 searchable")
    upload.get_by_label("Items that are there already").select_option("replace")

    upload.get_by_label("Choose files").set_input_files(site.pictures[2])
    upload.get_by_role("button", name="Do nothing").click()
    expect(upload.locator(".job")).to_have_count(1)
    upload.get_by_label("Choose files").set_input_files(site.pictures[2])
    upload.get_by_role("button", name="Replace", exact=True).click()

    expect(upload.locator(".job")).to_have_count(2)
    expect(upload.locator(".job .job-line").first).to_contain_text("1 searchable")
    expect(upload.locator("#size")).to_contain_text("1 item,")


def test_a_job_that_runs_is_cancelled(page: Page, site: Site) -> None:
    with httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.key}"}) as http:
        pictures = [
            {"image": f"http://127.0.0.1:9/{number}.jpg", "item_id": f"never-{number}"} for number in range(500)
        ]
        http.post("/v1/imports/urls", json={"pictures": pictures}).raise_for_status()
    page.goto(f"{site.url}/upload")
    job = page.locator(".job").first
    expect(job.locator("h3")).to_have_text("Import of 500 addresses")

    job.get_by_role("button", name="Cancel").click()

    expect(job.locator(".state")).to_have_text("Cancelled")
    expect(job.get_by_role("button", name="Cancel")).to_be_hidden()


def test_a_key_that_may_only_search_cannot_upload(
    context: BrowserContext, site: Site, console_errors: list[str]
) -> None:
    with httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.key}"}) as http:
        made = http.post("/v1/admin/keys", json={"name": "reader", "scopes": ["search"]}).raise_for_status()
    page = context.new_page()
    page.goto(f"{site.url}/signin#{made.json()['key']}")
    expect(page.locator("#wall a").first).to_be_visible()

    page.goto(f"{site.url}/upload")
    expect(page.get_by_text("needs the scope")).to_be_visible()
    page.goto(f"{site.url}/item?id={site.pictures[0].stem.rpartition('-')[0]}")
    expect(page.locator("#item-facts tr").first).to_be_visible()
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
