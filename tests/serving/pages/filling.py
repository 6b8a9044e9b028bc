"""Cases for tests of pages and reports, and a client that is logged in like a browser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.testclient import TestClient

from bcd.serving.answers import ImageAnswer
from bcd.serving.records.cases import OPEN, Case, CaseImage, Review
from tests.serving.making import IDENTITY
from tests.serving.running import ALL, BASE, PASSWORD, Running

PAGE = {"Accept": "text/html"}


def answer(
    number: int = 0, predicted: int = 0, share: float = 0.91, reasons: Sequence[str] = ()
) -> ImageAnswer:
    """An answer of the stub model."""
    names = IDENTITY.classes
    rest = (1 - share) / (len(names) - 1)
    shares = tuple(share if i == predicted else rest for i in range(len(names)))
    return ImageAnswer(
        f"{number:064x}", shares, names[predicted], predicted != IDENTITY.benign,
        (names[predicted],), bool(reasons), tuple(reasons), 0.5, "", 12.0, IDENTITY.sha256,
    )  # fmt: skip


def unreadable() -> ImageAnswer:
    """What is said of a file that is no image."""
    return ImageAnswer(
        "e" * 64, (), None, None, (), True, ("unreadable",), None, "not an image", 3.0,
        IDENTITY.sha256,
    )  # fmt: skip


def case_of(images: Sequence[CaseImage] = (), **fields: Any) -> Case:
    """A case that no database holds."""
    known: dict[str, Any] = {
        "id": "c1", "label": "S-17", "opened_by": "ann", "opened_at": 1.8e9,
        "model_sha256": IDENTITY.sha256, "model_name": IDENTITY.name,
        "classes": IDENTITY.classes, "status": OPEN, "version": 7, "signatures_needed": 1,
    }  # fmt: skip
    return Case(**{**known, **fields}, images=tuple(images))


def image_of(number: int = 1, said: ImageAnswer | None = None, *reviews: Review) -> CaseImage:
    """An image of such a case."""
    return CaseImage(f"i{number}", number, f"smear {number}.png", 1.8e9, said or answer(), reviews)


class Session:
    """A client with a session's cookie that fills in forms as a browser does.

    Args:
        served: The running app.
        user: Who logs in.
    """

    def __init__(self, served: Running, user: str = ALL) -> None:
        self._client = TestClient(served.app, BASE, headers={**PAGE, "Origin": BASE})
        answered = self._client.post(
            "/login", data={"name": user, "password": PASSWORD}, follow_redirects=False
        )
        assert answered.status_code == 303
        self.csrf = re.findall(r'name="csrf" value="([^"]+)"', self.get("/cases").text)[0]

    def get(self, path: str, **options: Any) -> Any:
        """Opens a page; no redirect is followed."""
        return self._client.get(path, follow_redirects=False, **options)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> Any:
        """Sends a form; no redirect is followed."""
        sent = {"csrf": self.csrf, **(data or {})}
        return self._client.post(path, data=sent, follow_redirects=False, **options)

    def open_case(self, label: str = "S-17") -> str:
        """Opens a case and returns its path."""
        opened = self.post("/cases", {"label": label})
        assert opened.status_code == 303
        return str(opened.headers["location"])

    def upload(self, path: str, *files: tuple[str, bytes]) -> Any:
        """Adds images to a case."""
        return self.post(f"{path}/images", files=[("images", file) for file in files])


def recorded(served: Running, path: str) -> Case:
    """The case at a path, as recorded."""
    return served.services.records.case(path.rsplit("/", 1)[-1])
