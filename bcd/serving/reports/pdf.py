"""A case as PDF."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

from PIL import Image as Picture
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    Flowable,
    Image,
    LongTable,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
)

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving import words
from bcd.serving.answers import ModelIdentity
from bcd.serving.records.cases import ERASED, SIGNED, Case, CaseImage
from bcd.serving.reports.fonts import BOLD, PLAIN, markup, printable, register_fonts

_MARGIN, _BAND = 16 * mm, 9 * mm  # around a page; for its header and footer
_SIDE = 15 * mm  # of a picture
_COLUMNS = [10 * mm, 18 * mm, 52 * mm, 46 * mm, 52 * mm]
_LONG = 160  # characters beyond which text is printed below the table
_JPEG = 88  # quality; PNG would make a file of 1,000 images five times as large
_INK, _MUTED, _LINE, _RED = map(HexColor, ("#1c2127", "#555f6b", "#c5ccd4", "#93190f"))

_BODY = ParagraphStyle("body", fontName=PLAIN, fontSize=8.5, leading=11, textColor=_INK)
_SMALL = ParagraphStyle("small", _BODY, fontSize=7.5, leading=9.5)
_HEAD = ParagraphStyle("head", _SMALL, fontName=BOLD, textColor=_MUTED)
_TITLE = ParagraphStyle("title", _BODY, fontName=BOLD, fontSize=16, leading=20, spaceAfter=2 * mm)
_SECTION = ParagraphStyle(
    "section", _BODY, fontName=BOLD, fontSize=11, leading=14, spaceBefore=5 * mm, spaceAfter=2 * mm
)
_UNSIGNED = ParagraphStyle("unsigned", _TITLE, fontSize=26, leading=32, textColor=_RED)


def case_pdf(
    case: Case, model: ModelIdentity | None, pictures: Mapping[str, bytes], head: str
) -> bytes:
    """Writes a case as PDF.

    Args:
        case: With its images.
        model: That answered it; None if it is not known any more.
        pictures: PNG by id of the image, made by the server; those that are not held are missing.
        head: Of the records.
    """
    register_fonts()
    stream = io.BytesIO()
    title = f"Case {case.label or case.id}"
    document = SimpleDocTemplate(
        stream,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN + _BAND,
        bottomMargin=_MARGIN + _BAND,
        title=title,
        author=", ".join(signature.by for signature in case.signatures),
        subject=DISCLAIMER,
        creator="bcd",
        lang="en",
        displayDocTitle=True,
    )
    below: list[tuple[int, str, str]] = []
    story: list[Flowable] = [Paragraph(markup(title), _TITLE)]
    if case.status not in (SIGNED, ERASED):
        story.append(Paragraph(_NOT_SIGNED, _UNSIGNED))
    story += [_facts(case, model, head), *_findings(case), Paragraph("Images", _SECTION)]
    story.append(_images(case, pictures, below))
    story += _below(below)
    document.build(story, canvasmaker=_canvas(printable(title), case.status))
    return stream.getvalue()


_NOT_SIGNED = "NOT SIGNED"


def _facts(case: Case, model: ModelIdentity | None, head: str) -> Table:
    made = f", {model.kind} of bcd {model.version}" if model else ""
    rows = [
        ("Case", f"{case.id}, {case.status}"),
        ("Opened", f"{words.utc(case.opened_at)} by {case.opened_by}"),
        *([("Site", case.site)] if case.site else []),
        ("Model", f"{case.model_name}{made}"),
        ("sha256", case.model_sha256),
        *[("Settings", text) for text in words.case_settings(case)],
    ]
    for signature in case.signatures:
        rows.append(("Signed", f"{signature.by}, {words.utc(signature.at)}"))
        rows.append(("Record", signature.chain))
    if missing := words.missing_signatures(case):
        rows.append(("Missing", missing))
    rows.append(("Head", f"{head} (of the records when this report was made)"))
    referred = sum(image.answer.refer for image in case.images)
    reviewed = sum(image.review is not None for image in case.images)
    counts = f"{len(case.images)}, {referred} referred, {reviewed} reviewed, "
    queued = f", {case.queued} more waiting for an answer" if case.queued else ""
    rows.append(("Images", f"{counts}{case.waiting} waiting for a review{queued}"))
    cells = [[Paragraph(name, _HEAD), Paragraph(markup(text), _BODY)] for name, text in rows]
    return Table(cells, [24 * mm, 154 * mm], style=_PLAIN_STYLE, hAlign="LEFT")


def _findings(case: Case) -> list[Flowable]:
    counts = Counter(map(words.finding, case.images))
    if not counts:
        return []
    rows = [
        [Paragraph(markup(name), _BODY), Paragraph(str(count), _BODY)]
        for name, count in sorted(counts.items())
    ]
    table = Table(rows, [60 * mm, 20 * mm], style=_PLAIN_STYLE, hAlign="LEFT")
    return [Paragraph("Findings", _SECTION), table]


def _images(
    case: Case, pictures: Mapping[str, bytes], below: list[tuple[int, str, str]]
) -> Flowable:
    if not case.images:
        return Paragraph("There are none.", _BODY)
    names = ("No.", "", "File", "Model's answer", "Finding")
    rows: list[list[Any]] = [[Paragraph(name, _HEAD) for name in names]]
    same = case.same_files
    for image in case.images:
        rows.append([
            Paragraph(str(image.number), _SMALL),
            _picture(image, pictures.get(image.id)),
            Paragraph(_file(image, same.get(image.id), below), _SMALL),
            Paragraph(_answer(image), _SMALL),
            Paragraph(_finding(image, below), _SMALL),
        ])  # fmt: skip
    return LongTable(
        rows, _COLUMNS, repeatRows=1, splitInRow=1, style=[
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, _LINE),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("TOPPADDING", (0, 0), (-1, -1), 2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
        ],
    )  # fmt: skip


def _picture(image: CaseImage, png: bytes | None) -> Flowable:
    if not png:
        why = "no picture" if image.answer.error else "not held"
        return Paragraph(why, ParagraphStyle("none", _SMALL, textColor=_MUTED))
    with Picture.open(io.BytesIO(png)) as opened:
        width, height = opened.size
        stream = io.BytesIO()
        opened.convert("RGB").save(stream, "JPEG", quality=_JPEG)
    scale = _SIDE / max(width, height)
    return Image(stream, width * scale, height * scale)


def _file(image: CaseImage, same: int | None, below: list[tuple[int, str, str]]) -> str:
    name = _short(image, "File", image.name or "(name erased)", below)
    text = f"{name}<br/>sha256 {image.answer.sha256[:16]}"
    if image.source:
        text += f"<br/>frame {image.source.frame} of DICOM {image.source.sha256[:16]}"
    if image.attributes:
        kept = "; ".join(f"{key} {value}" for key, value in image.attributes.items())
        text += f"<br/>{_short(image, 'Attributes', kept, below)}"
    return text if same is None else f"{text}<br/>same file as image {same}"


def _answer(image: CaseImage) -> str:
    answer = image.answer
    if not answer.probabilities:
        text = f"<b>no answer</b>: {markup(answer.error)}" if answer.error else "<b>no answer</b>"
    else:
        share = markup(words.percent(max(answer.probabilities)))
        text = f"<b>{markup(answer.predicted or '')}</b> {share}"
        if answer.ood_score is not None:
            text += f"<br/>OOD score {words.score(answer.ood_score)}"
    if answer.refer:
        text += f"<br/>referred: {markup('; '.join(answer.reasons))}"
    return text


def _finding(image: CaseImage, below: list[tuple[int, str, str]]) -> str:
    text = f"<b>{markup(words.finding(image))}</b>"
    if (review := image.review) is None:
        return text if image.waits else f"{text}<br/>not reviewed"
    kind = "overridden" if review.overrides else "confirmed"
    text += f"<br/>{kind} by {markup(review.by)}, {words.utc(review.at)}"
    if not review.image_held:
        text += "<br/>without the image on the page"
    if review.remark:
        text += f"<br/>{_short(image, 'Remark', review.remark, below)}"
    return text


def _short(image: CaseImage, what: str, text: str, below: list[tuple[int, str, str]]) -> str:
    # A row higher than a page could not be printed.
    made = markup(text)
    if len(made) <= _LONG:
        return made
    below.append((image.number, what, made))
    return f"{what}: below the table"


def _below(below: list[tuple[int, str, str]]) -> list[Flowable]:
    if not below:
        return []
    found: list[Flowable] = [Paragraph("Long names and remarks", _SECTION)]
    for number, what, made in below:
        found += [Paragraph(f"<b>{what} of image {number}:</b> {made}", _BODY), Spacer(0, 2 * mm)]
    return found


_PLAIN_STYLE = [
    ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ("LEFTPADDING", (0, 0), (-1, -1), 0),
    ("TOPPADDING", (0, 0), (-1, -1), 0.5),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 0.5),
]


def _canvas(title: str, status: str) -> type[Canvas]:
    class Numbered(Canvas):  # type: ignore[misc]
        """Draws header and footer when the number of pages is known."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._pages: list[dict[str, Any]] = []

        def showPage(self) -> None:  # noqa: N802
            self._pages.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for page in self._pages:
                self.__dict__.update(page)
                _draw_band(self, title, status, len(self._pages))
                Canvas.showPage(self)
            Canvas.save(self)

    return Numbered


def _draw_band(canvas: Canvas, title: str, status: str, pages: int) -> None:
    width, height = A4
    top, bottom = height - _MARGIN, _MARGIN
    canvas.setFont(BOLD, 9)
    canvas.setFillColor(_INK)
    canvas.drawString(_MARGIN, top, DISCLAIMER)
    if status not in (SIGNED, ERASED):
        canvas.setFillColor(_RED)
        canvas.drawRightString(width - _MARGIN, top, _NOT_SIGNED)
    canvas.setFont(PLAIN, 7.5)
    canvas.setFillColor(_MUTED)
    most = 70
    canvas.drawString(_MARGIN, bottom, title if len(title) <= most else f"{title[: most - 3]}...")
    canvas.drawRightString(width - _MARGIN, bottom, f"page {canvas.getPageNumber()} of {pages}")
