"""Searching with what the camera of a computer sees. Chromium has one that shows a moving test picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.conftest import PATIENCE_MS, Site, launch
from tests.e2e.test_axe import serious

pytestmark = pytest.mark.browser

CAMERA = "--use-fake-device-for-media-stream"
NO_CAMERA = f"{CAMERA}=device-count=0"
ALLOWED = "--use-fake-ui-for-media-stream"
REFUSED = f"{ALLOWED}=deny"

Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    """Opens the search page, signed in to, in a browser that was started with these flags. No page may complain."""
    complaints: list[str] = []

    def opened(*flags: str, link: str = site.link, touch: bool = False) -> Page:
        own = started.enter_context(launch(browser.browser_type, *flags))
        context: BrowserContext = own.new_context(has_touch=touch, is_mobile=touch)
        context.set_default_timeout(PATIENCE_MS)
        context.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        page = context.new_page()
        page.goto(link)
        expect(page.locator("#wall a").first).to_be_visible()
        return page

    with ExitStack() as started:
        yield opened
    assert complaints == []


def look(page: Page) -> None:
    """Open the camera, and see what it sees."""
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog", name="Take a picture")).to_be_visible()
    page.evaluate("window.stream = document.querySelector('video').srcObject")
    page.wait_for_function("() => { const video = document.querySelector('video');"
                           " return !video.paused && video.videoWidth > 0 && stream.active; }")  # fmt: skip


def expect_dark(page: Page) -> None:
    """The camera looks no more."""
    page.wait_for_function("stream.getTracks().every((track) => track.readyState === 'ended')")


def test_a_picture_that_the_camera_takes_is_searched_with(visit: Visit) -> None:
    page = visit(CAMERA, ALLOWED)
    look(page)
    seen = page.locator("video").evaluate("video => [video.videoWidth, video.videoHeight]")
    assert serious(page) == []

    page.get_by_role("button", name="Take picture").click()

    expect(page.locator("#hits a.hit")).to_have_count(24)
    expect(page.locator("#results-title")).to_have_text("Photo.jpg")
    taken = page.locator("#parts img")
    assert taken.evaluate("async image => (await image.decode(), [image.naturalWidth, image.naturalHeight])") == seen
    shown = """async image => {
      await image.decode();
      const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      return new Set(new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
    }"""
    assert taken.evaluate(shown) > 1  # it shows something
    expect_dark(page)


@pytest.mark.parametrize("way", ["button", "key"])
def test_a_camera_is_let_go_without_a_picture(visit: Visit, way: str) -> None:
    page = visit(CAMERA, ALLOWED)
    address = page.url
    look(page)

    if way == "button":
        page.get_by_role("button", name="Cancel").click()
    else:
        page.keyboard.press("Escape")

    expect(page.get_by_role("dialog")).to_have_count(0)
    expect_dark(page)
    expect(page.locator("#start")).to_be_visible()
    assert page.url == address
    look(page)  # and again


@pytest.mark.parametrize(
    ("flags", "said"), [((CAMERA, REFUSED), "The camera was refused."), ((NO_CAMERA, ALLOWED), "has no camera")]
)
def test_a_camera_that_is_refused_or_absent_is_said_so(visit: Visit, flags: tuple[str, str], said: str) -> None:
    page = visit(*flags)

    page.get_by_role("button", name="Use the camera").click()

    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Use the camera")).to_be_enabled()


def test_where_a_browser_gives_pages_no_camera_none_is_offered(visit: Visit, site: Site) -> None:
    # As over plain http to another machine.
    page = visit(
        CAMERA, "--host-resolver-rules=MAP akin.test 127.0.0.1", link=site.link.replace("127.0.0.1", "akin.test")
    )

    expect(page.locator("#choose")).to_be_visible()
    expect(page.locator("#take")).to_be_hidden()


def test_a_phone_takes_photos_with_a_program_of_its_own(visit: Visit) -> None:
    page = visit(CAMERA, ALLOWED, touch=True)

    expect(page.locator("input[capture]")).to_be_visible()
    expect(page.locator("#take")).to_be_hidden()
