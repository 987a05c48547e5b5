"""All pages for everybody: axe-core finds nothing serious, nothing moves by itself, a phone shows all of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.conftest import PATIENCE_MS, Site

pytestmark = pytest.mark.browser

# Notes what moves while a page loads, but for what follows from somebody's doing.
SHIFTS = """
window.shifts = [];
const named = ({ node }) => node?.id || node?.className || node?.nodeName;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) window.shifts.push([entry.value, ...entry.sources.map(named)]);
  }
}).observe({ type: "layout-shift", buffered: true });
"""
LAPTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 780}, "is_mobile": True, "has_touch": True}


def wall(page: Page, site: Site) -> None:
    page.goto(site.url)
    expect(page.locator("#wall a")).to_have_count(24)


def results(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?item={item_of(site)}")
    expect(page.locator("#hits a.hit")).to_have_count(24)


def refined(page: Page, site: Site) -> None:
    """Everything that the search page can show at a time."""
    where = "where=%5B%22price%22%2C%22lt%22%2C1000%5D"
    page.goto(f"{site.url}/?part=%7B%22item%22%3A%22{item_of(site)}%22%7D&{where}&diversity=0.3&explain=1")
    page.locator("#refine summary").click()
    page.locator("#request summary").click()
    expect(page.locator("#legend-text")).to_contain_text("in common")
    page.get_by_role("button", name=re.compile("Less like this")).nth(2).click()
    expect(page.locator("#parts output")).to_have_count(2)


def cropping(page: Page, site: Site) -> None:
    results(page, site)
    page.get_by_role("button", name=re.compile("^Crop of")).click()
    expect(page.locator("#crop")).to_be_visible()


def catalog(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/catalog")
    expect(page.locator("#pictures a").first).to_be_visible()


def item(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/item?id={item_of(site)}")
    expect(page.locator("#similar-hits a.hit").first).to_be_visible()
    expect(page.locator("#item-views .state.indexed")).to_have_count(4)


def deleting(page: Page, site: Site) -> None:
    item(page, site)
    page.get_by_role("button", name="Delete").click()


def upload(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/upload")
    expect(page.locator(".job").first).to_be_visible()


def duplicates(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/duplicates")
    expect(page.locator("#summary")).not_to_be_empty()


def docs(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/docs")


def widget(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/widget?item={item_of(site)}")
    expect(page.locator("#preview").get_by_role("link")).to_have_count(8)
    expect(page.locator("#snippet")).to_contain_text("min-height")


def product(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/demo/product/{item_of(site)}")
    expect(page.locator("akin-similar").get_by_role("link")).to_have_count(12)


def problem(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/item?id=nowhere")
    expect(page.get_by_role("alert")).to_be_visible()


def missing(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/demo/product/nowhere")


def signin(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/signin")


SEARCHING = (wall, results, refined, cropping)
LOOKING = (catalog, item, deleting, upload, duplicates)
VIEWS = (*SEARCHING, *LOOKING, widget, product, docs, problem, missing, signin)


@pytest.fixture(scope="module", params=["light", "dark", "phone"])
def visitor(request: pytest.FixtureRequest, browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A browser that has signed in, and whose pages count what moves."""
    kind = PHONE if request.param == "phone" else {**LAPTOP, "color_scheme": request.param}
    with browser.new_context(**kind) as context:
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(SHIFTS)
        page = context.new_page()
        page.goto(site.link)
        expect(page.locator("#wall a").first).to_be_visible()
        page.close()
        yield context


def item_of(site: Site) -> str:
    return site.pictures[0].stem.rpartition("-")[0]


def serious(page: Page) -> list[tuple[str, Any]]:
    """What axe-core takes for serious or worse: the rule, and where it is broken."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["target"]) for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("view", VIEWS)
def test_a_page_is_for_everybody(visitor: BrowserContext, site: Site, view: Callable[[Page, Site], None]) -> None:
    page = visitor.new_page()
    try:
        view(page, site)
        page.wait_for_load_state("networkidle")

        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
        sections = page.get_by_role("navigation", name="Main")
        assert sections.evaluate("list => list.scrollWidth - list.clientWidth") == 0
        assert page.evaluate("shifts") == []
    finally:
        page.close()
