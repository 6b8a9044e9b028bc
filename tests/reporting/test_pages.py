"""Pages in a browser: on screens of two sizes, in both themes, in print, and by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from bcd.audit.run import audit
from bcd.data.reading import read_image
from bcd.reporting.document import Figure, Section, Table, replace_section, write_html
from bcd.reporting.figures import new_figure
from bcd.reporting.gallery import Card, Gallery, Picture
from bcd.reporting.html import Cell, Link
from bcd.reporting.overview import Overview, matrix_panel
from bcd.reporting.svg import save_svg, series
from bcd.sweeps.finalize_sweep import finalize_sweep
from bcd.sweeps.trials import FAILED
from tests.helpers.choosing import exhaustive_if
from tests.helpers.harness import audit_config
from tests.helpers.pages import (
    BROWSER,
    LAPTOP,
    PHONE,
    Page,
    check_images,
    check_page,
    check_width,
    chromium,
    opened,
)
from tests.sweeps.test_sweeps import record, trial
from tests.sweeps.test_winner import leave_test

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def audited(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of the run's images and of mirrored copies, some of them in another class."""
    folder = tmp_path_factory.mktemp("audit")
    root = Path(shutil.copytree(run.parent / "in", folder / "in"))
    for number, file in enumerate(sorted(root.rglob("*.png"))[::5]):
        place = root / "Pro-B" if number < 2 else file.parent
        cv2.imwrite(str(place / f"copy {number}.png"), read_image(file)[:, ::-1, ::-1])
    audit(audit_config(folder / "out", f"data.root={root}", "network=false"))
    return folder / "out" / "audit.html"


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep whose best configuration has a report and whose last one failed."""
    sweep = tmp_path_factory.mktemp("sweep") / "many"
    accuracies = {"a=1": (0.8, 0.81), "a=2": (0.92, 0.9), "a=10": (0.7, 0.72)}
    for a, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            name = f"{a[2:]}-{seed}"
            record(sweep, trial(name, f"{a} seed={seed}", seed, accuracy))
    record(sweep, trial("3-0", "a=3 seed=0", 0, 0.0, status=FAILED, reason="no room"))
    for name in ("2-0", "2-1"):
        leave_test(sweep / name, 0.9)
        (sweep / name / "report.html").write_text("a report")
    finalize_sweep(sweep)
    return sweep / "leaderboard.html"


@needs_browser
@pytest.mark.parametrize("name", exhaustive_if("report".__ne__, ["report", "audit", "leaderboard"]))
def test_a_page_is_shown_well_everywhere(
    name: str, browser: Browser, run: Path, request: pytest.FixtureRequest
) -> None:
    fixtures = {"audit": "audited", "leaderboard": "leaderboard"}
    page = run / "report.html" if name == "report" else request.getfixturevalue(fixtures[name])
    check_page(browser, page)


@needs_browser
def test_the_first_screen_has_verdict_figures_matrix_and_samples(
    browser: Browser, run: Path
) -> None:
    with opened(browser, run / "report.html") as tab:
        for part in (".verdict", ".tiles", ".matrix", ".panel .gallery"):
            box = tab.locator(part).bounding_box()
            assert box is not None and box["y"] + box["height"] < LAPTOP[1], part
        assert tab.locator(".verdict .badge").inner_text() == "WARN"
        assert tab.locator(".panel .card").count() == 4
        files = [link.get_attribute("href") or "" for link in tab.locator(".files a").all()]
        assert {"metrics.json", "predictions.csv", "config.yaml", "audit.json"} <= set(files)
        assert all((run / file).is_file() for file in files)


@needs_browser
def test_a_page_needs_no_script(browser: Browser, leaderboard: Path) -> None:
    with opened(browser, leaderboard, PHONE, java_script_enabled=False) as tab:
        assert tab.locator("table.sortable tbody tr").first.is_visible()
        assert not tab.locator(".sort, #theme").filter(visible=True).count()
        assert tab.locator(".contents a").first.is_visible()


def column(table: Locator, place: int) -> list[str]:
    return table.locator(f"tbody td:nth-child({place})").all_inner_texts()


@needs_browser
def test_numbers_are_sorted_by_click_and_by_key(browser: Browser, tmp_path: Path) -> None:
    ascending = ["-2", "0.5 [0.4, 0.9]", "1.2 ± 0.1", "+3.0", "12.5%", "1,000"]
    mixed = [ascending[place] for place in (3, 0, 5, 1, 4, 2)]
    rows = [[f"row{n}", text] for n, text in zip((10, 9, 1, 2, 3, 4), mixed, strict=True)]
    page = tmp_path / "page.html"
    rows.insert(2, ["row0", ""])
    write_html(page, "Page", [Section("Numbers", [Table(["name", "value"], rows)])])
    with opened(browser, page) as tab:
        table = tab.locator("table")
        assert column(table, 2) == [row[1] for row in rows]
        name, value = table.locator("th").all()
        value.get_by_role("button").click()
        assert column(table, 2) == [*ascending, ""]
        assert value.get_attribute("aria-sort") == "ascending"
        tab.keyboard.press("Enter")
        assert column(table, 2) == [*reversed(ascending), ""]
        assert value.get_attribute("aria-sort") == "descending"
        tab.keyboard.press("Shift+Tab")
        tab.keyboard.press("Space")
        assert column(table, 1) == [f"row{n}" for n in (0, 1, 2, 3, 4, 9, 10)]
        assert (name.get_attribute("aria-sort"), value.get_attribute("aria-sort")) == (
            "ascending",
            None,
        )


@needs_browser
def test_a_leaderboard_sorts_and_links_to_reports(browser: Browser, leaderboard: Path) -> None:
    with opened(browser, leaderboard) as tab:
        board, trials = tab.locator("table.sortable").first, tab.locator("table.sortable").last
        assert column(board, 1) == ["a=2", "a=1", "a=10", "a=3"]
        board.get_by_role("button", name="configuration").click()
        assert column(board, 1) == ["a=1", "a=2", "a=3", "a=10"]
        board.get_by_role("button", name="mean ± sd").click()
        assert column(board, 1) == ["a=10", "a=1", "a=2", "a=3"]  # nothing of a=3 is known
        links = [link.get_attribute("href") for link in board.locator("a").all()]
        assert links == ["2-0/report.html"]
        links = [link.get_attribute("href") for link in trials.locator("a").all()]
        assert links == ["2-0/report.html", "2-1/report.html"]


@needs_browser
def test_many_classes_and_columns_keep_their_numbers_whole(
    browser: Browser, tmp_path: Path
) -> None:
    classes = [f"Class {n:02d} of several words" for n in range(12)]
    counts = [[100 if i == j else 37 for j in range(12)] for i in range(12)]
    wide = Table(["name", *classes], [["row", *["0.979 [0.966, 0.988]"] * 12]] * 2)
    panel = matrix_panel({"confusion": counts, "n": 6084}, classes)
    overview = Overview("Run", "PASS", "Fine.", panels=[panel])
    page = tmp_path / "page.html"
    write_html(page, "Page", [Section("Wide", [wide])], overview)
    check_page(browser, page, dark=False)


@needs_browser
def test_the_caption_of_a_large_image_says_which_it_is(browser: Browser, tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    card = Card([Picture(pixels, "Test image: A"), Picture(pixels, "Other: B")], ["A", "60 %"])
    page = tmp_path / "page.html"
    write_html(page, "Page", [Section("One", [Gallery([card])])])
    with opened(browser, page) as tab:
        tab.locator(".zoom").first.press("Enter")
        caption = tab.locator("dialog[open] p")
        assert caption.inner_text().splitlines() == ["Test image: A", "60 %"]
        tab.keyboard.press("ArrowRight")
        assert caption.inner_text().splitlines() == ["Other: B", "A", "60 %"]


@needs_browser
def test_images_open_large_by_key_and_the_focus_returns(browser: Browser, audited: Path) -> None:
    with opened(browser, audited) as tab:
        gallery = tab.locator("section#label-conflicts .gallery")
        images = gallery.locator(".zoom")
        assert images.count() == 4
        images.first.press("Enter")
        shown = tab.locator("dialog[open] img")
        moves = [(0, "ArrowRight"), (1, "ArrowRight"), (2, "ArrowLeft"), (1, "ArrowLeft")]
        for place, key in [*moves, (0, "ArrowLeft"), (3, "Escape")]:
            expected = images.nth(place).locator("img")
            assert shown.get_attribute("src") == expected.get_attribute("src")
            assert shown.get_attribute("alt") == expected.get_attribute("alt")
            tab.keyboard.press(key)
        tab.locator("dialog").wait_for(state="detached")
        assert images.nth(3).evaluate("button => button === document.activeElement")
        images.first.click()
        tab.get_by_role("button", name="Close").press("Enter")
        tab.locator("dialog").wait_for(state="detached")


@needs_browser
def test_the_theme_follows_the_system_until_it_is_chosen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_html(page, "Page", [Section("One", ["text"])])
    with opened(browser, page, scheme="dark") as tab:
        button, seen = tab.locator("#theme"), []
        for _ in range(4):
            back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            seen.append((button.inner_text(), back))
            button.press("Enter")
    names, colours = zip(*seen, strict=True)
    assert names == ("Theme: auto", "Theme: light", "Theme: dark", "Theme: auto")
    assert colours[0] == colours[2] == colours[3] != colours[1]


@needs_browser
def test_charts_have_the_colours_of_the_theme(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for name in ("one", "two"):
        chart = new_figure(3, 2)
        chart.add_subplot().plot([0, 1], [1, 3], **series(0))
        save_svg(chart, tmp_path / "figures" / f"{name}.svg")
    (tmp_path / "figures" / "two.png").write_bytes(b"not used")
    blocks = [Figure("one", 'first "chart"'), Figure("two", "second"), Figure("three", "absent")]
    write_html(page, "Page", [Section("Charts", blocks)])
    text = page.read_text(encoding="utf-8")
    assert "http" not in text and "<?xml" not in text
    for scheme in ("light", "dark"):
        with opened(browser, page, scheme=scheme) as tab:
            charts = tab.get_by_role("img")
            names = [chart.get_attribute("aria-label") for chart in charts.all()]
            assert names == ['first "chart"', "second"]
            ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
            assert len(set(ids)) == len(ids)
            uses = tab.locator("svg use")
            targets = uses.evaluate_all("all => all.map(e => e.getAttribute('href') || '')")
            assert len(targets) > 4
            assert {target.removeprefix("#") for target in targets} <= set(ids)
            ink = tab.evaluate("getComputedStyle(document.body).color")
            words = tab.locator("svg text")
            fills = words.evaluate_all("all => all.map(e => getComputedStyle(e).fill)")
            assert set(fills) == {ink}
            check_images(tab)
            check_width(tab)


def test_the_contents_follow_a_section_that_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    odd = "Sites & <b>"
    write_html(page, "Page", [Section(t, [t]) for t in ("Results", "Limits", "Results")])
    for text in ("first", "second"):
        replace_section(page, Section(odd, [text]), "Limits")
    found = Page(page.read_text(encoding="utf-8"))
    assert found.headings == ["Results", odd, "Limits", "Results"]
    assert "second" in found.text and "first" not in found.text
    anchors = [link for link in found.links if link.startswith("#")]
    contents = ["#results", "#sites-b", "#limits", "#results-2"]
    assert anchors == ["#content", *contents, *contents]
    replace_section(page, Section("Last", []), "no such section")
    assert Page(page.read_text(encoding="utf-8")).headings[-1] == "Last"


def test_links_and_statuses_are_cells(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [
        ["FAIL", Link('a "run" & more', 'a#1/"r" ü.html')],
        ["PASS", "<a href=x>"],
    ]
    write_html(tmp_path / "a.html", "Page", [Section("Cells", [Table(["x", "y"], rows)])])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    found = Page(text)
    assert found.cells == ["x", "y", "FAIL", 'a "run" & more', "PASS", "<a href=x>"]
    assert "a%231/%22r%22%20%C3%BC.html" in found.links and "x" not in found.links
    assert 'class="badge FAIL"' in text
