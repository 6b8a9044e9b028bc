"""Reads and opens pages: their text without a browser, and all the rest in Chromium."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

BROWSER = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
LAPTOP, PHONE = (1366, 768), (360, 740)
MAX_BYTES = 15e6


class Page(HTMLParser):
    """Text, headings, table cells and attributes of a page; without styles and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.headings: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.cells = [cell.strip() for cell in self.cells]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:  # elements without an end, such as images
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.cells[-1] += data
        if "h2" in self._open:
            self.headings[-1] += data


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(
    browser: Browser, file: Path, size: tuple[int, int] = LAPTOP, scheme: str = "light", **more: Any
) -> Iterator[Tab]:
    """Opens a page; it must report no error and request nothing but itself."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        **more,
    )
    tab, problems = context.new_page(), []
    tab.on("console", lambda message: problems.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
    requested: list[str] = []
    tab.on("request", lambda request: requested.append(request.url))
    tab.goto(file.as_uri())
    yield tab
    problems += [url[:200] for url in requested if not url.startswith(("data:", file.as_uri()))]
    context.close()
    assert problems == []


def check_page(browser: Browser, file: Path, dark: bool = True) -> None:
    """Checks a page on a laptop, on a phone and in print, in both themes or the light one.

    The theme changes colours alone and the screen none, so each is checked for what it may break:
    contrast takes nine tenths of axe's time.
    """
    assert file.stat().st_size < MAX_BYTES
    for size in (LAPTOP, PHONE):
        with opened(browser, file, size) as tab:
            check_images(tab)
            check_width(tab)
            check_contents(tab)
            check_accessible(tab, contrast=size == LAPTOP)
    if dark:
        with opened(browser, file, scheme="dark") as tab:
            check_contrast(tab)
    with opened(browser, file, scheme="dark") as tab:
        tab.emulate_media(media="print")
        assert not tab.locator(".contents, #theme, .skip").filter(visible=True).count()
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        check_images(tab)
        tab.set_viewport_size({"width": 700, "height": 1000})  # of A4, without margins
        check_numbers(tab)
        assert tab.locator("main > section").first.bounding_box()["width"] <= 700  # type: ignore[index]
        assert tab.pdf()[:4] == b"%PDF"


def check_images(tab: Tab) -> None:
    """All images are shown."""
    tab.evaluate(
        "Promise.allSettled([...document.images].map(i => (i.loading = 'eager', i.decode())))"
    )
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    assert tab.evaluate(broken) == []


def check_width(tab: Tab) -> None:
    """Nothing is wider than the window, and no line breaks within a number."""
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    check_numbers(tab)


def check_numbers(tab: Tab) -> None:
    """No line breaks within a number."""
    broken = tab.evaluate(
        "[...document.querySelectorAll('td.num, .matrix td b, .matrix td small')].filter("
        "c => { const r = document.createRange(); r.selectNodeContents(c);"
        "return new Set([...r.getClientRects()].map(b => Math.round(b.top))).size > 1; })"
        ".map(c => c.textContent)"
    )
    assert broken == []


def check_contents(tab: Tab) -> None:
    """The contents name every section, and each link leads to it."""
    titles = tab.locator("main > section[id] > h2").all_inner_texts()
    links = tab.locator(".contents a")
    summary = tab.locator(".contents summary")
    for number, title in enumerate(titles):
        if not links.nth(number).is_visible():  # folded on a phone
            summary.press("Enter")
        assert links.nth(number).inner_text() == title
        links.nth(number).press("Enter")
        heading = tab.locator("main > section[id] > h2").nth(number)
        box, window = heading.bounding_box(), tab.viewport_size
        assert box is not None and window is not None and 0 <= box["y"] < window["height"], title
    assert links.count() == len(titles)


def check_accessible(tab: Tab, contrast: bool = True) -> None:
    """axe-core finds nothing; without `contrast`, whose check takes longest, nothing else."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if not contrast:
        options["rules"] = {"color-contrast": {"enabled": False}}
    _run_axe(tab, options)


def check_contrast(tab: Tab) -> None:
    """axe-core finds no text that is hard to read, for a theme of a page that was checked."""
    _run_axe(tab, {"resultTypes": ["violations"], "runOnly": ["color-contrast"]})


def _run_axe(tab: Tab, options: dict[str, Any]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab, options=options).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:300]) for v in found] == []
