"""One real stack with a small catalogue, and browsers that are signed in to it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, Error, Page, expect, sync_playwright

from services.client import AkinClient, UploadFile
from services.samples import MANIFEST_NAME, write_samples
from services.stack.background import background_stack
from services.stack.state import RunState
from tests.servers import free_ports, require

# Of 30 items, which are more than a page of hits.
PICTURES = 120
PATIENCE_MS = 20_000


@dataclass(frozen=True)
class Site:
    """A running Akin: its address, an admin key, and the pictures that its default catalog was filled with."""

    url: str
    key: str
    pictures: list[Path]

    @property
    def link(self) -> str:
        """What `akin up` prints for the browser."""
        return f"{self.url}/signin#{self.key}"

    def client(self) -> AkinClient:
        return AkinClient(self.url, self.key)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium: the system's, else Playwright's own."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        started = launch(playwright.chromium)
        yield started
        started.close()


def launch(chromium: BrowserType, *flags: str) -> Browser:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        return chromium.launch(executable_path=program, args=["--no-sandbox", *flags])
    except Error as error:
        require("browser", f"Chromium does not start: {error.message.splitlines()[0]}")


@pytest.fixture(scope="package")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`akin up` with sample pictures in its default catalog; needs the browser, so that none is started in vain."""
    folder = tmp_path_factory.mktemp("samples")
    pictures = write_samples(folder, PICTURES)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AKIN_") and name != "AKIN_REQUIRE"]:
            patch.delenv(name)
        (port,) = free_ports(1)
        # The tests' own web server is no public one.
        environment = {"AKIN_PORT": str(port), "AKIN_FETCH_ALLOW": "127.0.0.1"}
        with background_stack(tmp_path_factory.mktemp("stack"), environment=environment) as state:
            fill(state, folder)
            yield Site(state.api_url, state.api_key, pictures)


def fill(state: RunState, folder: Path) -> None:
    records = [json.loads(line) for line in (folder / MANIFEST_NAME).read_text().splitlines()]
    files = [
        UploadFile(file, (folder / file).read_bytes(), record) for record in records for file in [record.pop("file")]
    ]
    with AkinClient(state.api_url, state.api_key) as client:
        job = client.wait(client.import_files(files).id, interval=0.1)
    assert (job.state, job.indexed) == ("finished", PICTURES)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A visitor's browser, at the size of a laptop, that has never been here."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context
        # What a test answers in the place of the server, it answers to its end: else it fails within the next test.
        for page in context.pages:
            page.unroute_all(behavior="wait")


@pytest.fixture
def console_errors(context: BrowserContext) -> Iterator[list[str]]:
    """What the pages complained about. A test that provokes complaints clears it; others must leave it empty."""
    seen: list[str] = []
    context.on("console", lambda message: seen.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: seen.append(str(error.error)))
    yield seen
    assert not seen


@pytest.fixture
def page(context: BrowserContext, site: Site, console_errors: list[str]) -> Page:
    """The search page, signed in to."""
    page = context.new_page()
    page.goto(site.link)
    expect(page.locator("#wall a").first).to_be_visible()
    return page
