"""A server on a free port and a browser that is logged in, for tests of the pages."""

from __future__ import annotations

import contextlib
import csv
import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from pypdf import PdfReader

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving.records.cases import SIGNED, UNIDENTIFIED
from tests.helpers.pages import LAPTOP
from tests.serving.pages.filling import recorded
from tests.serving.running import ALL, PASSWORD, Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# What a browser says about an answer that is an error on purpose.
REFUSED = "Failed to load resource: the server responded with a status of"
# What htmx says about a request that a later one has replaced.
REPLACED = ("htmx:afterRequest,", "htmx:sendAbort,")

# What a finger cannot hit: smaller than 44 px, links within a sentence excepted.
SMALL = """[...document.querySelectorAll(
  'main button, main input:not([type=radio], [type=checkbox], [type=hidden]), main textarea,'
  + ' main summary, main .choice, .chips a, .links a, .crumbs a, .picture, tbody th a, .bar a,'
  + ' .bar button')]
  .filter(e => e.checkVisibility({contentVisibilityAuto: true}) && !e.closest('dialog:not([open])'))
  .map(e => [e.outerHTML.slice(0, 90), e.getBoundingClientRect()])
  .filter(([, box]) => box.height < 43.9 || box.width < 43.9).map(([html]) => html)"""
DROP = """async files => {
  const data = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
    data.items.add(new File([bytes], name));
  }
  const zone = document.getElementById('upload');
  for (const kind of ['dragenter', 'dragover', 'drop'])
    zone.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serves an app, which somebody else starts and stops, on loopback; its address."""
    config = uvicorn.Config(app, lifespan="off", log_level="error", access_log=False)
    server = uvicorn.Server(config)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@dataclass
class Visit:
    """A tab and what it said and asked for.

    Attributes:
        tab: Of the browser.
        said: Messages of the console and errors of scripts.
        asked: Addresses that were requested.
    """

    tab: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def visit(
    browser: Browser,
    url: str,
    size: tuple[int, int] = LAPTOP,
    scheme: str = "light",
    user: str = ALL,
    touch: bool = False,
    refused: int = 0,
) -> Iterator[Visit]:
    """A tab that is logged in; it must say nothing and ask for nothing elsewhere.

    Args:
        browser: Opens it.
        url: Of the server.
        size: Of the window.
        scheme: `light` or `dark`.
        user: Who logs in; empty for nobody.
        touch: Whether the screen is touched.
        refused: Number of answers that are errors on purpose.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        has_touch=touch,
        base_url=url,
    )
    context.set_default_timeout(15_000)
    seen = Visit(context.new_page())
    seen.tab.on("console", lambda message: seen.said.append(message.text))
    seen.tab.on("pageerror", lambda error: seen.said.append(str(error)))
    seen.tab.on("request", lambda request: seen.asked.append(request.url))
    if user:
        seen.tab.goto("/login")
        log_in(seen.tab, user)
        seen.tab.wait_for_url("**/cases")
    yield seen
    context.close()
    on_purpose = [text for text in seen.said if text.startswith(REFUSED)]
    assert len(on_purpose) == refused, on_purpose
    rest = [text for text in seen.said if text not in on_purpose and not text.startswith(REPLACED)]
    assert rest == [], rest
    assert [u for u in seen.asked if not u.startswith((f"{url}/", "blob:"))] == []


def log_in(tab: Page, user: str = ALL) -> None:
    """Fills in the form of the login and sends it."""
    tab.get_by_label("Name").fill(user)
    tab.get_by_label("Password").fill(PASSWORD)
    tab.keyboard.press("Enter")


def tab_to(tab: Page, selector: str, backwards: bool = False) -> None:
    """Presses Tab until an element has the focus, which is visible then."""
    for _ in range(80):
        tab.keyboard.press("Shift+Tab" if backwards else "Tab")
        if tab.evaluate("s => document.activeElement.matches(s)", selector):
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert tab.evaluate(outline) != "none", selector
            return
    raise AssertionError(f"{selector} cannot be reached by Tab")


def check_documents(tab: Page, served: Running, path: str) -> None:
    """PDF and CSV say what is recorded."""
    case = recorded(served, path)
    assert case.status == SIGNED
    with tab.expect_download() as waiting:
        tab.get_by_role("link", name="PDF").click()
    reader = PdfReader(Path(waiting.value.path()))
    text = "\n".join(page.extract_text() for page in reader.pages)
    for said in (DISCLAIMER, case.label, "stripes, no smear", UNIDENTIFIED, ALL, case.model_sha256):
        assert said in text
    assert case.signatures[0].chain in text.replace("\n", "") and "NOT SIGNED" not in text
    assert sum(len(page.images) for page in reader.pages) == len(case.images)
    with tab.expect_download() as waiting:
        tab.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text("utf-8"))))
    assert [row["path"] for row in rows] == [image.name for image in case.images]
    assert [row["finding"] for row in rows] == [image.finding for image in case.images]
    assert [row["sha256"] for row in rows] == [image.answer.sha256 for image in case.images]
