"""Uploads in Chromium: what fails, is sent again, or cannot be sent."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.pages import BROWSER
from tests.serving.pages.browsing import DROP, log_in, visit
from tests.serving.pages.filling import recorded
from tests.serving.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

# A second for the script is a hundredth of one.
FAST = "const timer = setTimeout; window.setTimeout = (f, ms) => timer(f, (ms || 0) / 100);"
# The server gets the first request, but its answer is lost; later ones are not even sent.
LOSE = """
const send = window.fetch;
window.sent = 0;
window.lose = true;
window.fetch = async (...asked) => {
  if (!window.lose || asked[1]?.method !== "POST") return send(...asked);
  window.sent += 1;
  if (window.sent === 1) await send(...asked);
  throw new TypeError("Failed to fetch");
};
"""


def choose(tab: Page, *files: Path) -> None:
    tab.get_by_label("Images of this case").set_input_files(files)


def names(served: Running, path: str) -> list[str]:
    return [image.name for image in recorded(served, path).images]


def test_lost_answers_and_lost_networks(
    served: Running, url: str, browser: Browser, images: list[Path]
) -> None:
    path = served.all.post("/cases", data={"label": "lost"}).headers["location"]
    with visit(browser, url) as seen:
        tab = seen.tab
        tab.add_init_script(FAST + LOSE)
        tab.goto(path)
        choose(tab, *images[:2])
        tab.get_by_text("Done: 0 of 2 uploaded").wait_for()
        assert tab.evaluate("window.sent") == 6 and names(served, path) == ["one.png", "two.png"]
        assert tab.locator("#failed li", has_text="The server cannot be reached").count() == 2
        tab.evaluate("document.getElementById('upload').dataset.most = '0.000001'")
        choose(tab, images[2])  # counted apart from what failed before
        tab.get_by_text("Done: 0 of 1 uploaded, 0 to review, 1 failed.").wait_for()
        tab.evaluate("document.getElementById('upload').dataset.most = '32'")
        tab.evaluate("() => { window.lose = false; }")
        tab.get_by_role("button", name="Try all again").click()
        tab.get_by_text("Done: 3 of 3 uploaded, 0 to review.").wait_for()
        assert not tab.locator("#failed li").count()
        assert not tab.get_by_role("button", name="Try all again").is_visible()
    assert names(served, path) == ["one.png", "two.png", "three.png"]


def test_uploads_go_on_after_another_login(
    served: Running, url: str, browser: Browser, images: list[Path]
) -> None:
    path = served.all.post("/cases", data={"label": "logged out"}).headers["location"]
    with visit(browser, url, refused=2) as seen:
        tab = seen.tab
        tab.goto(path)
        tab.context.clear_cookies()
        choose(tab, *images[:3])
        tab.get_by_text("3 failed. You were logged out. Log in in another tab").wait_for()
        other = tab.context.new_page()
        other.goto("/login")
        log_in(other)
        other.wait_for_url("**/cases")
        tab.get_by_role("button", name="Try all again").click()
        tab.get_by_text("Done: 3 of 3 uploaded, 0 to review.").wait_for()
    assert names(served, path) == ["one.png", "two.png", "three.png"]


def test_files_that_cannot_be_sent_say_why(
    served: Running, url: str, browser: Browser, images: list[Path], tmp_path: Path
) -> None:
    path = served.all.post("/cases", data={"label": "vanished"}).headers["location"]
    vanished = tmp_path / "vanished.png"
    vanished.write_bytes(images[0].read_bytes())
    with visit(browser, url, refused=1) as seen:
        tab = seen.tab
        tab.goto(path)
        tab.get_by_text("or drop them here").wait_for()
        sent: list[Route] = []

        def busy(route: Route) -> None:
            """The first time; meanwhile a file vanishes."""
            sent.append(route)
            if len(sent) > 1:
                route.continue_()
                return
            vanished.unlink()
            route.fulfill(status=429, json={}, headers={"Retry-After": "1"})

        tab.route("**/images", busy)
        choose(tab, images[0], vanished)
        tab.get_by_text("Done: 1 of 2 uploaded, 0 to review, 1 failed.").wait_for()
        assert "moved, changed or deleted" in tab.locator("#failed li").inner_text()
        tab.evaluate(
            "() => { DataTransferItem.prototype.webkitGetAsEntry = function () {"
            " return { isDirectory: this.getAsFile().name === 'folder' }; }; }"
        )
        content = base64.b64encode(images[2].read_bytes()).decode()
        tab.evaluate(DROP, [("folder", ""), ("three.png", content)])
        tab.get_by_text("Done: 1 of 1 uploaded, 0 to review.").wait_for()
        assert tab.get_by_text("folder: is a folder: open it").is_visible()
    assert names(served, path) == ["one.png", "three.png"]
