"""The widget in the pages of a shop, which are of another origin than Akin."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect

from services.client import AkinClient, UploadFile
from services.samples import MANIFEST_NAME, write_samples
from services.stack.background import background_stack
from tests.e2e.test_axe import serious
from tests.servers import free_ports, wait_until

pytestmark = pytest.mark.browser

PICTURES = 40  # of ten items
# Before anything of the page runs: what moves while it loads.
SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@dataclass(frozen=True)
class Stack:
    """A running Akin that keeps events, and the items that it was filled with."""

    url: str
    key: str
    data_dir: Path
    items: list[dict[str, Any]]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        response = httpx.request(method, self.url + path, json=body, headers=headers).raise_for_status()
        return response.json() if response.content else None

    def publishable(self, *origins: str) -> str:
        made = self.call("POST", "/v1/admin/keys", {"name": "shop", "scopes": ["widget"], "origins": list(origins)})
        key: str = made["key"]
        return key

    def events(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.data_dir / "akin.db")) as database:
            return database.execute("SELECT kind, item_id, shown, rank, index_id FROM events ORDER BY id").fetchall()


@pytest.fixture(scope="module")
def stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`akin up` with sample products; needs the browser, so that none is started in vain."""
    folder, data_dir = tmp_path_factory.mktemp("samples"), tmp_path_factory.mktemp("stack")
    write_samples(folder, PICTURES)
    records = [json.loads(line) for line in (folder / MANIFEST_NAME).read_text().splitlines()]
    items = list({record["item_id"]: record for record in records}.values())
    files = [
        UploadFile(file, (folder / file).read_bytes(), record) for record in records for file in [record.pop("file")]
    ]
    (port,) = free_ports(1)
    with background_stack(data_dir, environment={"AKIN_PORT": str(port), "AKIN_EVENT_DAYS": "7"}) as state:
        with AkinClient(state.api_url, state.api_key) as client:
            assert client.wait(client.import_files(files).id, interval=0.1).indexed == PICTURES
        yield Stack(state.api_url, state.api_key, data_dir, items)


@dataclass
class Shop:
    """A site of another origin, on a port of its own; `pages` are its HTML by path."""

    port: int
    pages: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def other_origin(self) -> str:
        """Another name of the same site, and so another origin."""
        return f"http://localhost:{self.port}"

    def put(self, path: str, stack: Stack, key: str, attributes: str, page: str = "") -> None:
        """A product page with the widget, and a text below it."""
        self.put_rows(path, stack, [f'key="{key}" {attributes}'], page)

    def put_rows(self, path: str, stack: Stack, rows: list[str], page: str = "") -> None:
        """The same with several, by their attributes."""
        written = "".join(
            f'<akin-similar style="display: block; min-height: 300px" {attributes}></akin-similar>'
            for attributes in rows
        )
        self.pages[path] = f"""<!doctype html><html {page or 'lang="en"'}><head><title>Shop</title>
            <script async src="{stack.url}/widget.js"></script></head>
            <body><h1>A product</h1>{written}<p id="below">Below</p></body></html>"""


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A site that serves what a test puts there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = shop.pages.get(
                self.path, "<!doctype html><title>Product</title><link rel=icon href=data:,>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            for name, value in shop.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_arguments: Any) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shop = Shop(server.server_address[1])
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield shop
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def page(context: BrowserContext, console_errors: list[str]) -> Page:
    """An empty page that counts what moves in it."""
    context.add_init_script(SHIFTS)
    return context.new_page()


def eventually(condition: Callable[[], bool], page: Page, what: str) -> None:
    """Wait with the browser's events going on."""
    wait_until(lambda: page.wait_for_timeout(20) or condition(), what, seconds=20)


def test_a_page_of_another_origin_shows_similar_items_without_moving(stack: Stack, shop: Shop, page: Page) -> None:
    item = stack.items[0]["item_id"]
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="5" heading="You may also like"')

    page.goto(f"{shop.origin}/p")

    links = page.get_by_role("listitem").get_by_role("link")
    expect(links).to_have_count(5)
    expect(page.get_by_role("list", name="You may also like")).to_be_visible()
    wanted = stack.call("GET", f"/v1/items/{item}/similar?limit=5")["hits"]
    for at, hit in enumerate(wanted):
        expect(links.nth(at)).to_have_attribute("href", hit["item"]["url"])
        expect(links.nth(at).get_by_role("img")).to_have_attribute("alt", hit["item"]["title"])
        expect(links.nth(at)).to_contain_text(re.compile(r"€[\d,.]+"))
    first = links.first.get_by_role("img")
    eventually(lambda: first.evaluate("image => image.complete && image.naturalWidth > 0"), page, "a picture")
    assert first.evaluate("image => image.currentSrc").startswith(f"{stack.url}/v1/images/")
    assert page.evaluate("window.shifts") == 0


def test_what_visitors_see_and_go_to_is_reported_by_pointer_and_keyboard(stack: Stack, shop: Shop, page: Page) -> None:
    item = stack.items[1]["item_id"]
    key = stack.publishable(shop.origin)
    shop.put("/p", stack, key, f'item="{item}" limit="3" link="/to/{{item}}"')
    before = len(stack.events())
    page.goto(f"{shop.origin}/p")
    links = page.get_by_role("listitem").get_by_role("link")
    expect(links).to_have_count(3)
    answer = stack.call("GET", f"/v1/items/{item}/similar?limit=3")
    shown = [hit["item"]["item_id"] for hit in answer["hits"]]

    eventually(lambda: len(stack.events()) > before, page, "the impression")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{shop.origin}/to/{shown[1]}")
    eventually(lambda: len(stack.events()) > before + 1, page, "the click by keyboard")
    page.go_back()
    expect(links).to_have_count(3)
    links.first.click()
    page.wait_for_url(f"{shop.origin}/to/{shown[0]}")
    eventually(lambda: ("click", item, json.dumps(shown[:1]), 1, answer["index"]) in stack.events(), page, "the click")

    seen, clicked = stack.events()[before : before + 2]
    assert seen == ("impression", item, json.dumps(shown), None, answer["index"])
    assert clicked == ("click", item, json.dumps(shown[1:2]), 2, answer["index"])


@pytest.mark.parametrize("policy", ["no-referrer", "same-origin"])
def test_events_are_reported_from_pages_that_tell_nobody_where_visitors_come_from(
    stack: Stack, shop: Shop, page: Page, policy: str
) -> None:
    item = stack.items[2]["item_id"]
    shop.headers["Referrer-Policy"] = policy
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="2" link="/to/{{item}}"')
    before = len(stack.events())
    with page.expect_request(re.compile("/v1/events")) as sent:
        page.goto(f"{shop.origin}/p")
    eventually(lambda: len(stack.events()) > before, page, "the impression")
    # In other modes the standard, and Firefox, keep the origin back.
    assert sent.value.all_headers()["sec-fetch-mode"] == "cors"

    # The page is left at once, and the event gets through all the same.
    page.get_by_role("listitem").get_by_role("link").first.click()
    page.wait_for_url(re.compile("/to/"))

    eventually(lambda: len(stack.events()) > before + 1, page, "the click")
    assert [kind for kind, *_ in stack.events()[before:]] == ["impression", "click"]


# Goes to items, as often as that, without leaving the page.
CLICKS = """times => {
  addEventListener("akin-click", (event) => event.preventDefault());
  for (const row of document.querySelectorAll("akin-similar")) {
    for (let left = times; left; left -= 1) row.shadowRoot.querySelector("a").click();
  }
}"""


@pytest.fixture
def posts(page: Page) -> list[Request]:
    """What the page sends to Akin."""
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    return sent


def events_of(post: Request) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(post.post_data or "")["events"]
    return events


def clicks_of(posts: list[Request]) -> list[tuple[str, list[str]]]:
    """The keys that clicks were reported with, and on whose pages those were; by request."""
    clicks = [
        (parse_qs(urlsplit(post.url).query)["key"][0], [e["item_id"] for e in events_of(post) if e["kind"] == "click"])
        for post in posts
    ]
    return [(key, items) for key, items in clicks if items]


def test_what_happens_in_all_rows_of_a_page_is_reported_together(
    stack: Stack, shop: Shop, page: Page, posts: list[Request]
) -> None:
    (item, other), keys = (one["item_id"] for one in stack.items[:2]), [stack.publishable(shop.origin) for _ in "ab"]
    rows = [(item, keys[0]), (other, keys[0]), (item, keys[1])]
    shop.put_rows("/p", stack, [f'item="{of}" key="{key}" limit="2"' for of, key in rows])
    before = len(stack.events())
    page.goto(f"{shop.origin}/p")
    expect(page.get_by_role("listitem").get_by_role("link")).to_have_count(6)

    page.evaluate(CLICKS, 2)

    eventually(lambda: [kind for kind, *_ in stack.events()[before:]].count("click") == 6, page, "the clicks")
    assert sorted(clicks_of(posts)) == sorted([(keys[0], [item, item, other, other]), (keys[1], [item, item])])


def test_more_than_the_server_takes_at_once_is_reported_in_parts(
    stack: Stack, shop: Shop, page: Page, posts: list[Request]
) -> None:
    item = stack.items[0]["item_id"]
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="2"')
    before = len(stack.events())
    page.goto(f"{shop.origin}/p")
    expect(page.get_by_role("listitem").get_by_role("link")).to_have_count(2)

    page.evaluate(CLICKS, 110)

    eventually(lambda: [kind for kind, *_ in stack.events()[before:]].count("click") == 110, page, "the clicks")
    assert max(len(events_of(post)) for post in posts) == 50
    assert len(posts) <= 4  # the impression may be in one of its own


def stop_the_clock(page: Page) -> None:
    """From now on timers of the page end when the test says so."""
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(hours=1))


def test_an_event_that_is_too_long_for_the_server_takes_no_other_with_it(
    stack: Stack, shop: Shop, page: Page, posts: list[Request], console_errors: list[str]
) -> None:
    item = stack.items[0]["item_id"]
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="20"')

    def lengthened(route: Route) -> None:
        answer = route.fetch()
        (first, *_) = answer.json()["hits"]
        many = [first | {"item": first["item"] | {"item_id": f"{number}-{'x' * 500}"}} for number in range(20)]
        route.fulfill(response=answer, json=answer.json() | {"hits": many})

    page.route("**/similar?*", lengthened)
    before = len(stack.events())
    stop_the_clock(page)
    page.goto(f"{shop.origin}/p")
    expect(page.get_by_role("listitem").get_by_role("link")).to_have_count(20)
    # Once this one knows what is in view, those before it do, too.
    page.evaluate("() => new Promise((known) => new IntersectionObserver(known).observe(document.body))")

    page.clock.run_for(1000)  # the row was seen
    page.evaluate(CLICKS, 1)
    page.clock.run_for(1000)

    eventually(lambda: len(stack.events()) > before, page, "the click")
    assert [[event["kind"] for event in events_of(post)] for post in posts] == [["impression"], ["click"]]
    eventually(lambda: bool(console_errors), page, "the refusal")
    assert all("422" in text for text in console_errors)
    console_errors.clear()


@pytest.mark.parametrize("way", ["hidden", "left"])
def test_what_is_still_to_be_reported_is_so_at_once_when_the_page_is_hidden_or_left(
    stack: Stack, shop: Shop, page: Page, way: str
) -> None:
    item = stack.items[4]["item_id"]
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="2" link="/to/{{item}}"')
    before = len(stack.events())
    stop_the_clock(page)
    page.goto(f"{shop.origin}/p")
    links = page.get_by_role("listitem").get_by_role("link")
    expect(links).to_have_count(2)

    if way == "hidden":
        page.evaluate(CLICKS, 1)
        page.evaluate("""() => {
          Object.defineProperties(document, { hidden: { value: true }, visibilityState: { value: "hidden" } });
          document.dispatchEvent(new Event("visibilitychange"));
        }""")
    else:
        links.first.click()
        page.wait_for_url(re.compile("/to/"))

    eventually(lambda: len(stack.events()) > before, page, "the click")
    assert [kind for kind, *_ in stack.events()[before:]] == ["click"]


def test_browsers_whose_requests_end_with_the_page_report_by_beacon(
    stack: Stack, shop: Shop, page: Page, posts: list[Request]
) -> None:
    page.add_init_script("delete Request.prototype.keepalive")
    item = stack.items[5]["item_id"]
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="2"')
    before = len(stack.events())
    page.goto(f"{shop.origin}/p")
    expect(page.get_by_role("listitem").get_by_role("link")).to_have_count(2)

    page.evaluate(CLICKS, 2)

    eventually(lambda: [kind for kind, *_ in stack.events()[before:]].count("click") == 2, page, "the clicks")
    assert {post.resource_type for post in posts} == {"ping"}
    assert posts[0].header_value("content-type") == "text/plain;charset=UTF-8"


def test_a_page_of_an_origin_that_the_key_is_not_for_shows_nothing(
    stack: Stack, shop: Shop, page: Page, console_errors: list[str]
) -> None:
    item = stack.items[0]["item_id"]
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" heading="You may also like"')

    with page.expect_response(re.compile("/similar")) as refusal:
        page.goto(f"{shop.other_origin}/p")

    assert refusal.value.status == 403
    expect(page.locator("akin-similar")).to_be_hidden()
    expect(page.locator("#below")).to_be_visible()
    # That the answer was 403 is said by the browser itself; the widget adds nothing.
    assert all("403" in text for text in console_errors)
    console_errors.clear()


def test_nothing_is_shown_where_nothing_is_similar_and_the_row_goes_with_the_items(
    stack: Stack, shop: Shop, page: Page, console_errors: list[str]
) -> None:
    key = stack.publishable(shop.origin)
    shop.put("/p", stack, key, 'item="unknown" heading="You may also like"')

    with page.expect_response(re.compile("/similar")):
        page.goto(f"{shop.origin}/p")

    expect(page.locator("akin-similar")).to_be_hidden()
    console_errors.clear()  # of the browser: 404
    page.locator("akin-similar").evaluate(
        "(element, item) => element.setAttribute('item', item)", stack.items[0]["item_id"]
    )
    expect(page.get_by_role("listitem").get_by_role("link")).to_have_count(8)


def test_a_browser_of_early_2023_shows_the_row(stack: Stack, shop: Shop, page: Page) -> None:
    page.add_init_script("delete URL.canParse")
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{stack.items[0]["item_id"]}" limit="3"')

    page.goto(f"{shop.origin}/p")

    expect(page.get_by_role("listitem").get_by_role("link")).to_have_count(3)


def test_an_answer_that_cannot_be_shown_is_as_none(stack: Stack, shop: Shop, page: Page) -> None:
    def nonsense(route: Route) -> None:
        route.fulfill(json={"hits": [{}], "others": []}, headers={"Access-Control-Allow-Origin": "*"})

    page.route("**/similar?*", nonsense)
    page.add_init_script("addEventListener('akin-load', (event) => { window.loaded = event.detail; })")
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{stack.items[0]["item_id"]}"')

    page.goto(f"{shop.origin}/p")

    page.wait_for_function("window.loaded")
    expect(page.locator("akin-similar")).to_be_hidden()
    assert page.evaluate("loaded") == {"hits": [], "others": []}


def test_a_row_says_how_alike_and_how_unlike_each_other_its_items_are_to_be(
    stack: Stack, shop: Shop, page: Page
) -> None:
    item = stack.items[0]["item_id"]
    scores = [hit["score"] for hit in stack.call("GET", f"/v1/items/{item}/similar?limit=9")["hits"]]
    bound = f"{(scores[2] + scores[3]) / 2:.6f}"
    attributes = f'min-score="{bound}" collapse="near" diversity="0.5" fill-by="currency"'
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="5" {attributes}')

    with page.expect_request(re.compile("/similar")) as asked:
        page.goto(f"{shop.origin}/p")

    sent = parse_qs(urlsplit(asked.value.url).query)
    assert [sent[name] for name in ("min_score", "collapse", "diversity")] == [[bound], ["near"], ["0.5"]]
    links = page.get_by_role("listitem").get_by_role("link")
    expect(links).to_have_count(5)
    wanted = stack.call(
        "GET", f"/v1/items/{item}/similar?limit=5&min_score={bound}&collapse=near&diversity=0.5&fill_by=currency"
    )
    assert len(wanted["hits"]) <= 3
    assert [link.get_attribute("href") for link in links.all()] == [
        one["item"]["url"] for one in (*wanted["hits"], *wanted["others"])
    ]


@pytest.fixture
def unlinked(stack: Stack) -> Iterator[str]:
    """An item; it and all others have no address on the web for the time of a test."""
    for item in stack.items:
        stack.call("PUT", f"/v1/items/{item['item_id']}", {"url": f"urn:sku:{item['item_id']}"})
    yield stack.items[0]["item_id"]
    for item in stack.items:
        stack.call("PUT", f"/v1/items/{item['item_id']}", {"url": item["url"]})


@pytest.mark.parametrize(
    ("heading", "name"), [('heading="You may also like"', "You may also like"), ("", "Similar items")]
)
def test_a_row_without_links_is_scrolled_by_the_keyboard(
    stack: Stack, shop: Shop, page: Page, unlinked: str, heading: str, name: str
) -> None:
    page.set_viewport_size({"width": 600, "height": 800})
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{unlinked}" {heading}')
    page.goto(f"{shop.origin}/p")
    row = page.get_by_role("list", name=name)
    expect(row.get_by_role("listitem").get_by_role("img")).to_have_count(8)
    assert serious(page) == []

    page.keyboard.press("Tab")
    expect(row).to_be_focused()
    page.keyboard.press("ArrowRight")

    eventually(lambda: row.evaluate("list => list.scrollLeft > 0"), page, "a row that scrolls")


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_a_page_of_another_origin_stays_one_for_everybody(stack: Stack, shop: Shop, page: Page, direction: str) -> None:
    page.set_viewport_size({"width": 600, "height": 800})
    key, attributes = stack.publishable(shop.origin), f'item="{stack.items[0]["item_id"]}" heading="You may also like"'
    shop.put("/p", stack, key, attributes, page=f'lang="en" dir="{direction}"')
    page.goto(f"{shop.origin}/p")
    row = page.get_by_role("list", name="You may also like")
    places = row.get_by_role("listitem")
    expect(places.get_by_role("link")).to_have_count(8)

    assert serious(page) == []
    # The row begins where reading does, and goes on beyond the other edge.
    whole, first, last = (one.bounding_box() for one in (row, places.first, places.last))
    assert whole
    assert first
    assert last
    left, right = (first["x"] - whole["x"], whole["x"] + whole["width"] - first["x"] - first["width"])
    if direction == "ltr":
        assert 0 <= left <= 8
        assert last["x"] > whole["x"] + whole["width"]
    else:
        assert 0 <= right <= 8
        assert last["x"] + last["width"] < whole["x"]
    # No link takes the keyboard to the row but those of its items.
    page.keyboard.press("Tab")
    expect(places.first.get_by_role("link")).to_be_focused()


def test_links_lead_to_the_web_only_and_pages_may_take_them_over(stack: Stack, shop: Shop, page: Page) -> None:
    item = stack.items[2]["item_id"]
    first, other = (hit["item"] for hit in stack.call("GET", f"/v1/items/{item}/similar?limit=2")["hits"])
    nearest, second = first["item_id"], other["item_id"]
    stack.call("PUT", f"/v1/items/{nearest}", {"url": "javascript:document.body.remove()", "title": "<b>Bold</b>"})
    shop.put("/p", stack, stack.publishable(shop.origin), f'item="{item}" limit="2"')
    page.goto(f"{shop.origin}/p")
    places = page.get_by_role("listitem")
    expect(places).to_have_count(2)
    expect(places.first).to_contain_text("<b>Bold</b>")
    expect(places.first.get_by_role("link")).to_have_count(0)

    page.evaluate("""addEventListener("akin-click", (event) => {
        event.preventDefault();
        document.title = `${event.detail.rank} ${event.detail.item.item_id}`;
    })""")
    places.nth(1).get_by_role("link").click()

    expect(page).to_have_title(f"2 {second}")
    assert page.url == f"{shop.origin}/p"
    stack.call("PUT", f"/v1/items/{nearest}", {"url": first["url"], "title": first["title"]})  # others look at it too


def test_the_row_follows_language_and_direction_of_the_page(stack: Stack, shop: Shop, page: Page) -> None:
    item, key = stack.items[0]["item_id"], stack.publishable(shop.origin)
    shop.put("/p", stack, key, f'item="{item}" limit="3"', page='lang="de" dir="rtl"')

    page.goto(f"{shop.origin}/p")

    places = page.get_by_role("listitem")
    expect(places.get_by_role("link")).to_have_count(3)
    expect(places.first).to_contain_text(re.compile(r"\d,\d\d\s€"))
    left, right = (places.nth(at).bounding_box() for at in (1, 0))
    assert left
    assert right
    assert left["x"] + left["width"] <= right["x"]


def test_the_demo_product_page_shows_an_item_and_leads_to_similar_ones(stack: Stack, page: Page) -> None:
    item = stack.items[3]
    page.goto(f"{stack.url}/signin#{stack.key}")
    page.wait_for_url(f"{stack.url}/")

    page.goto(f"{stack.url}/demo/product/{item['item_id']}")

    expect(page.get_by_role("heading", level=1)).to_have_text(item["title"])
    links = page.locator("akin-similar").get_by_role("link")
    expect(links.first).to_be_visible()
    shown = stack.call("GET", f"/v1/items/{item['item_id']}/similar?limit=12")["hits"]
    assert page.evaluate("window.shifts") == 0
    links.first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(shown[0]["item"]["title"])


def test_a_price_beyond_all_floats_breaks_no_page(stack: Stack, page: Page) -> None:
    item, price = stack.items[4]["item_id"], 10**400
    before = stack.call("GET", f"/v1/items/{item}")["attributes"]
    stack.call("PUT", f"/v1/items/{item}", {"attributes": before | {"brand": "Acme", "price": price}})
    page.goto(f"{stack.url}/signin#{stack.key}")
    page.wait_for_url(f"{stack.url}/")

    page.goto(f"{stack.url}/demo/product/{item}")

    expect(page.get_by_text(f"{price} {before['currency']}")).to_be_visible()
    brand, beside = page.get_by_text("Acme", exact=True), page.locator(".product-stock")
    colours = [
        one.evaluate("element => getComputedStyle(element).color") for one in (brand, page.locator("h1"), beside)
    ]
    assert len(set(colours)) == 3  # the brand has a style of its own
    # Another item's row has it without a price.
    like = stack.call("GET", f"/v1/items/{item}/similar?limit=1")["hits"][0]["item"]["item_id"]
    page.goto(f"{stack.url}/demo/product/{like}")
    card = page.locator(f"akin-similar a[href$='/{item}']")
    expect(card).to_be_attached()
    assert card.locator("[part=price]").text_content() == ""
    stack.call("PUT", f"/v1/items/{item}", {"attributes": before})


def test_the_lines_of_the_widget_page_work_in_a_shop(stack: Stack, shop: Shop, page: Page) -> None:
    page.goto(f"{stack.url}/signin#{stack.key}")
    page.wait_for_url(f"{stack.url}/")
    page.goto(f"{stack.url}/widget?item={stack.items[0]['item_id']}")
    preview = page.locator("#preview").get_by_role("link")
    expect(preview).to_have_count(8)

    page.get_by_label("Heading").fill('"Ähnliches" & more')
    page.get_by_label("Items, at most").fill("4")
    page.get_by_label("Round corners").fill("0")
    page.get_by_label("Fill up by an attribute").fill("category")
    page.get_by_label("Or a new one").fill(shop.origin)
    page.get_by_role("button", name="Make a key").click()
    expect(page.locator("#key-origins")).to_have_text(f"For pages of {shop.origin}.")
    expect(preview).to_have_count(4)
    lines = page.locator("#snippet").inner_text()

    shop.pages["/p"] = f"<!doctype html><html lang=en><title>Shop</title><meta charset=utf-8>{lines}</html>"
    page.goto(f"{shop.origin}/p")
    expect(page.get_by_role("list", name='"Ähnliches" & more').get_by_role("link")).to_have_count(4)
    assert page.locator("akin-similar").evaluate("e => getComputedStyle(e).getPropertyValue('--akin-radius')") == "0px"


def test_the_widget_page_offers_how_alike_items_are_to_be(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.url}/signin#{stack.key}")
    page.wait_for_url(f"{stack.url}/")
    page.goto(f"{stack.url}/widget?item={stack.items[0]['item_id']}")
    expect(page.locator("#preview").get_by_role("link")).to_have_count(8)
    for name in ("min-score", "diversity", "collapse"):
        expect(page.locator("#snippet")).not_to_contain_text(name)

    page.get_by_label("Lowest likeness").fill("0.3")
    page.get_by_label("Of near copies only the best").check()
    with page.expect_request(re.compile("diversity=0.4")) as asked:
        page.get_by_label("Variety").fill("0.4")

    sent = parse_qs(urlsplit(asked.value.url).query)
    assert [sent[name] for name in ("min_score", "collapse")] == [["0.3"], ["near"]]
    for attribute in ('min-score="0.3"', 'diversity="0.4"', 'collapse="near"'):
        expect(page.locator("#snippet")).to_contain_text(attribute)


@pytest.mark.parametrize("path", ["/demo/product/no/such <b>thing</b>", "/widget?item=no/such <b>thing</b>"])
def test_an_unknown_item_has_a_page_that_says_so(
    stack: Stack, page: Page, console_errors: list[str], path: str
) -> None:
    page.goto(f"{stack.url}/signin#{stack.key}")
    page.wait_for_url(f"{stack.url}/")

    answer = page.goto(f"{stack.url}{path}")

    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no item “no/such <b>thing</b>”")
    page.get_by_role("link", name="look in the catalog").click()
    page.wait_for_url(f"{stack.url}/catalog")
    assert all("404" in text for text in console_errors)  # said by the browser itself
    console_errors.clear()
