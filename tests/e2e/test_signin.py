"""Signing in and out."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import Site

pytestmark = pytest.mark.browser


def test_the_printed_link_signs_in_and_leaves_no_key_behind(page: Page, site: Site) -> None:
    assert page.url == f"{site.url}/"

    page.go_back()

    assert site.key not in page.url
    assert site.key not in page.content()


def test_a_typed_key_signs_in_and_leads_to_the_page_that_was_asked_for(
    context: BrowserContext, site: Site, console_errors: list[str]
) -> None:
    page = context.new_page()
    item_id = site.pictures[0].stem.rpartition("-")[0]
    page.goto(f"{site.url}/?item={item_id}")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

    page.get_by_label("API key").fill(site.key)
    page.keyboard.press("Enter")

    expect(page.locator("#hits a.hit")).to_have_count(24)
    assert page.url == f"{site.url}/?item={item_id}"


@pytest.mark.parametrize("path", ["/catalog", "/item?id=a%2Fb", "/upload", "/duplicates"])
def test_every_page_is_come_back_to_after_signing_in(context: BrowserContext, site: Site, path: str) -> None:
    page = context.new_page()
    page.goto(site.url + path)

    page.get_by_label("API key").fill(site.key)
    page.keyboard.press("Enter")

    expect(page).to_have_url(site.url + path)


def test_a_browser_of_early_2023_signs_in(context: BrowserContext, site: Site, console_errors: list[str]) -> None:
    context.add_init_script("delete URL.canParse")
    page = context.new_page()
    page.goto(f"{site.url}/catalog")

    page.get_by_label("API key").fill(site.key)
    page.keyboard.press("Enter")

    expect(page).to_have_url(f"{site.url}/catalog")


@pytest.mark.parametrize(
    "elsewhere", ["https://elsewhere.example/", "//elsewhere.example", "javascript:alert(1)", "http://["]
)
def test_signing_in_leads_to_no_other_site(context: BrowserContext, site: Site, elsewhere: str) -> None:
    page = context.new_page()
    page.goto(f"{site.url}/signin?{urlencode({'next': elsewhere})}")

    page.get_by_label("API key").fill(site.key)
    page.keyboard.press("Enter")

    expect(page).to_have_url(f"{site.url}/")


@pytest.mark.parametrize("by_link", [True, False], ids=["link", "typed"])
def test_a_wrong_key_is_said_so(context: BrowserContext, site: Site, console_errors: list[str], by_link: bool) -> None:
    page = context.new_page()
    page.goto(f"{site.url}/signin#akin_wrong" if by_link else f"{site.url}/signin")

    if not by_link:
        page.get_by_label("API key").fill("akin_wrong")
        page.get_by_role("button", name="Sign in").click()

    expect(page.get_by_role("alert")).to_contain_text("this key is unknown or revoked")
    expect(page.get_by_label("API key")).to_be_focused()
    assert page.url == f"{site.url}/signin"
    assert all("401" in error for error in console_errors)
    console_errors.clear()


def test_a_link_that_was_cut_off_is_a_wrong_key(context: BrowserContext, site: Site, console_errors: list[str]) -> None:
    page = context.new_page()

    page.goto(f"{site.url}/signin#akin_%")

    expect(page.get_by_role("alert")).to_contain_text("this key is unknown or revoked")
    assert all("401" in error for error in console_errors)
    console_errors.clear()


def test_signing_out_locks_the_page(page: Page, site: Site) -> None:
    # A picture that is still on its way when the session ends is refused, and the console says so.
    page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Sign out").click()

    expect(page).to_have_url(f"{site.url}/signin")
    page.goto(site.url)
    expect(page).to_have_url(f"{site.url}/signin")
    assert page.request.get(f"{site.url}/v1/images").status == 401
    page.go_back()
    expect(page).to_have_url(f"{site.url}/signin")


def test_a_session_that_ended_leads_back_to_signing_in(page: Page, site: Site, console_errors: list[str]) -> None:
    page.context.clear_cookies()

    page.locator("#wall a").first.click()

    expect(page).to_have_url(re.compile(r"/signin\?next=%2F%3Fitem%3D"))
    assert all("401" in error for error in console_errors)
    console_errors.clear()
