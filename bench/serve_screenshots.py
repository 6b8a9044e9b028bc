"""Takes the screenshots in docs/ of the server's pages, on drawn smears and with the demo model.

It needs the extra `dev` and Chromium. The demo model is kept in the folder `--work`.

python -m bench.serve_screenshots
"""

from __future__ import annotations

import argparse
import io
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.measure import ROOT

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Browser, Page

NAME, PASSWORD = "m.curie", secrets.token_urlsafe(24)
SMEARS = 11
# Name of the picture, page, width, height and theme.
PICTURES = (
    ("serve_case", "case", 1366, 1180, "light"),
    ("serve_image", "image", 1366, 900, "light"),
    ("serve_phone", "image", 390, 844, "dark"),
)
LARGEST = 200_000  # bytes


def main() -> None:
    """Starts a server and writes the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        prog="python -m bench.serve_screenshots", description=__doc__
    )  # fmt: skip
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "serve_screenshots"
    )
    parser.add_argument("--to", type=Path, default=ROOT / "docs", help="folder of the pictures")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as records,
        _server(asked.work.absolute(), Path(records) / "records.sqlite") as url,
        sync_playwright() as playwright,
    ):
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for file in take_pictures(browser, url, NAME, PASSWORD, asked.to):
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)
        browser.close()


def take_pictures(
    browser: Browser, url: str, name: str, password: str, folder: Path
) -> list[Path]:  # fmt: skip
    """Opens a case with drawn smears and writes the pictures of it.

    Args:
        browser: Opens the pages.
        url: Of the server.
        name: Of a user with all roles.
        password: Of this user.
        folder: Of the pictures.
    """
    pages: dict[str, str] = {}
    found = []
    for picture, page, width, height, theme in PICTURES:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,  # type: ignore[arg-type]
            reduced_motion="reduce",
            base_url=url,
        )
        tab = context.new_page()
        _log_in(tab, name, password)
        pages = pages or _open_case(tab)
        tab.goto(pages[page])
        tab.evaluate(
            "Promise.allSettled([...document.images].map(i => (i.loading = 'eager', i.decode())))"
        )
        found.append(_write(tab.screenshot(), folder / f"{picture}.png"))
        context.close()
    return found


def _log_in(tab: Page, name: str, password: str) -> None:
    tab.goto("/login")
    tab.get_by_label("Name").fill(name)
    tab.get_by_label("Password").fill(password)
    tab.get_by_role("button", name="Log in").click()
    tab.wait_for_url("**/cases")


def _open_case(tab: Page) -> dict[str, str]:
    """Uploads smears and one image that is none, and reviews two; addresses of the pages."""
    from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear

    stripes = np.zeros((224, 224, 3), np.uint8)
    stripes[:, ::16], stripes[::16] = (40, 90, 160), (200, 200, 40)
    drawn = [
        draw_smear(CLASS_NAMES[n % len(CLASS_NAMES)], slide=900 + n % 3, index=n, size=224)
        for n in range(SMEARS)
    ]
    files = [
        {"name": f"field {n:02}.png", "mimeType": "image/png", "buffer": _png(pixels)}
        for n, pixels in enumerate([*drawn, stripes], 1)
    ]
    tab.get_by_label("New case").fill("S-2027-0117")
    tab.get_by_role("button", name="Open case").click()
    tab.get_by_label("Images of this case").set_input_files(files)  # type: ignore[arg-type]
    tab.get_by_text(f"Done: {len(files)} of {len(files)} uploaded").wait_for()
    case = tab.url
    tab.goto(f"{case}?sort=number")
    images = [link.get_attribute("href") or "" for link in tab.locator(".picture").all()]
    tab.goto(images[-1])
    tab.get_by_label("Unidentified").check()
    tab.get_by_label("Remark").fill("a grid, no blood smear")
    tab.get_by_role("button", name="Record the review").click()
    tab.goto(images[1])
    tab.locator("label.choice", has_text="the model's answer").click()
    tab.get_by_role("button", name="Record the review").click()
    return {"case": case, "image": f"{images[2]}&view=evidence"}


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _write(png: bytes, file: Path) -> Path:
    """Writes a picture with as many colours as fit into `LARGEST`."""
    with Image.open(io.BytesIO(png)) as opened:
        for colours in (256, 128, 64):
            small = opened.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
            small.save(file, optimize=True)
            if file.stat().st_size < LARGEST:
                break
    return file


@contextmanager
def _server(folder: Path, records: Path) -> Iterator[str]:
    """A server with the demo model and one user; its address."""
    from hydra import compose, initialize_config_dir

    from bcd.config.check import check_config
    from bcd.config.serve import ServeConfig
    from bcd.serving.accounts.store import Accounts
    from bcd.serving.accounts.user import ROLES
    from bcd.serving.app import create_app
    from bcd.serving.engine.loading import load_engine
    from bcd.serving.records.store import open_records
    from bcd.serving.services import Services
    from bcd.serving.web.logs import configure_logs

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("serve", overrides=[f"folder={folder}", "log.level=error"])
    cfg = check_config(composed, ServeConfig)
    configure_logs(cfg.log)
    engine = load_engine(cfg)
    with open_records(f"sqlite:///{records}", cfg.images) as opened:
        accounts = Accounts(opened.engine, cfg)
        accounts.users.add("", NAME, PASSWORD, ROLES)
        with _listening(create_app(Services(cfg, engine, opened, accounts))) as url:
            yield url


@contextmanager
def _listening(app: FastAPI) -> Iterator[str]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
