"""Pages arrive piece by piece, as on a slow machine: what is shown already stays where it is."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page

from tests.e2e.conftest import PATIENCE_MS, Site
from tests.e2e.test_axe import SHIFTS

pytestmark = pytest.mark.browser

ITEM_PAGES = ("/item?id={item}", "/widget?item={item}", "/demo/product/{item}")
PAGES = ("/", "/catalog", "/upload", "/duplicates", "/docs", *ITEM_PAGES)
PASSED_ON = ("Cookie", "Content-Type", "Accept", "Sec-Fetch-Site")
# As many tags come one by one; what follows is below the screen.
MOST_PIECES = 120
# Resolves when all up to the comment of this number has been read and painted.
ARRIVED = """number => new Promise((resolve) => {
  const look = () => {
    const comments = document.createTreeWalker(document, NodeFilter.SHOW_COMMENT);
    while (comments.nextNode()) {
      if (comments.currentNode.data !== String(number)) continue;
      requestAnimationFrame(() => requestAnimationFrame(resolve));
      return;
    }
    requestAnimationFrame(look);
  };
  look();
})"""


class SlowSite:
    """The site at an address of its own, where a page's tags come when they are let."""

    def __init__(self, site: Site) -> None:
        self._pieces: list[str] = []
        self._known = threading.Event()
        self._let = threading.Semaphore(0)
        slow = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = self._ask(b"")
                if self.headers["Sec-Fetch-Dest"] == "document":
                    slow._send(self.wfile, answer.text)
                else:
                    self.wfile.write(answer.content)

            def do_POST(self) -> None:
                self.wfile.write(self._ask(self.rfile.read(int(self.headers["Content-Length"]))).content)

            def _ask(self, body: bytes) -> httpx.Response:
                headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
                answer = httpx.request(
                    self.command, site.url + self.path, headers={**headers, "Origin": site.url}, content=body
                )
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
                self.end_headers()
                return answer

            def log_message(self, *_arguments: Any) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _send(self, file: Any, page: str) -> None:
        # Where there are scripts, what <noscript> has is no part of the page.
        page = re.sub("<noscript>.*?</noscript>", "", page, flags=re.DOTALL)
        head, *tags = re.split("(?=<(?!body)[a-z])", page[page.index("<body") :])
        head = page[: page.index("<body")] + head
        self._pieces = [head, *tags[:MOST_PIECES], "".join(tags[MOST_PIECES:])]
        self._known.set()
        for number, piece in enumerate(self._pieces):
            assert self._let.acquire(timeout=PATIENCE_MS / 1000)
            mark = f"<!--{number}-->" if 0 < number < len(self._pieces) - 1 else ""
            file.write((piece + mark).encode())
            file.flush()

    def bring(self, page: Page, path: str) -> None:
        """Open a page, and let it come piece by piece, each painted before the next."""
        self._let.release()
        page.goto(self.url + path, wait_until="commit")
        assert self._known.wait(PATIENCE_MS / 1000)
        for number in range(1, len(self._pieces) - 1):
            self._let.release()
            page.evaluate(ARRIVED, number)
        self._let.release()
        page.wait_for_load_state("networkidle")


@pytest.fixture
def slow_site(site: Site) -> Iterator[SlowSite]:
    slow = SlowSite(site)
    serving = threading.Thread(target=slow.server.serve_forever)
    serving.start()
    yield slow
    slow.server.shutdown()
    serving.join()
    slow.server.server_close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_stays_where_it_is_while_more_of_it_comes(
    page: Page, site: Site, slow_site: SlowSite, path: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.add_init_script(SHIFTS)

    slow_site.bring(page, path.format(item=site.pictures[0].stem.rpartition("-")[0]))

    shifts = page.evaluate("shifts")
    assert shifts == [], shifts
