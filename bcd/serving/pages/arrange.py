"""Order, choice and pages of the images of a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from bcd.serving.records.cases import CaseImage

PER_PAGE = 100

SORTS = {"doubt": "doubt", "number": "number", "class": "class"}
SHOWS = {"all": "all", "waiting": "to review"}

_KEYS: dict[str, Callable[[CaseImage], tuple[float, ...] | tuple[str, float, int]]] = {
    "doubt": lambda image: (-image.answer.doubt, image.number),
    "number": lambda image: (image.number,),
    "class": lambda image: (image.finding or "", -image.answer.doubt, image.number),
}


@dataclass(frozen=True)
class Arrangement:
    """How the images of a case are shown.

    Attributes:
        sort: A key of `SORTS`.
        show: A key of `SHOWS`.
        page: From 1.
    """

    sort: str = "doubt"
    show: str = "all"
    page: int = 1

    @classmethod
    def asked(cls, sort: str = "", show: str = "", page: int = 1) -> Arrangement:
        """What a URL asks for; what is unknown is the default."""
        return cls(
            sort if sort in SORTS else cls.sort, show if show in SHOWS else cls.show, max(page, 1)
        )

    def query(self, **changes: str | int) -> str:
        """The query of a URL that asks for this, with changes; empty for the default."""
        wanted, default = replace(self, **changes), Arrangement()  # type: ignore[arg-type]
        asked = {
            key: value for key, value in vars(wanted).items() if value != getattr(default, key)
        }
        return f"?{urlencode(asked)}" if asked else ""


@dataclass(frozen=True)
class Shown:
    """A page of images.

    Attributes:
        images: On this page.
        page: Its number, from 1.
        pages: Number of pages, at least 1.
        total: Images on all pages.
    """

    images: tuple[CaseImage, ...]
    page: int
    pages: int
    total: int


def arranged(images: Sequence[CaseImage], how: Arrangement) -> list[CaseImage]:
    """All images to show, in order."""
    chosen = [image for image in images if how.show == "all" or image.waits]
    return sorted(chosen, key=_KEYS[how.sort])


def shown(images: Sequence[CaseImage], how: Arrangement) -> Shown:
    """One page of the images; the last one if there are fewer."""
    found = arranged(images, how)
    pages = max(-(-len(found) // PER_PAGE), 1)
    page = min(how.page, pages)
    here = found[(page - 1) * PER_PAGE : page * PER_PAGE]
    return Shown(tuple(here), page, pages, len(found))


def neighbours(
    images: Sequence[CaseImage], how: Arrangement, image: CaseImage
) -> tuple[CaseImage | None, CaseImage | None]:
    """The previous and the next image to show; `image` itself need not be one of them."""
    order = sorted(images, key=_KEYS[how.sort])
    at = order.index(image)
    before = arranged(order[:at], how)
    after = arranged(order[at + 1 :], how)
    return (before[-1] if before else None), (after[0] if after else None)


def next_waiting(
    images: Sequence[CaseImage], how: Arrangement, image: CaseImage
) -> CaseImage | None:
    """The next image that waits for a review, from the start again after the last one."""
    order = sorted(images, key=_KEYS[how.sort])
    at = order.index(image)
    return next((i for i in order[at + 1 :] + order[:at] if i.waits), None)
