"""Examples of a run's answers for its report: images with their answers and nearest images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bcd.data.quality.overlaps import OverlapShares
from bcd.data.reading import read_image
from bcd.evaluation.examples import confused_pairs
from bcd.evaluation.label_issues import LabelIssue, find_label_issues
from bcd.evaluation.results import Result
from bcd.reporting.document import Block, Table
from bcd.reporting.gallery import Card, Gallery, Picture
from bcd.storage import written_path
from bcd.training.build import Run
from bcd.training.neighbours import Shown

_ISSUES = 24  # labels to check in the report, at most


def example_blocks(
    run: Run, test: Result, shown: Shown, overlays: Mapping[int, NDArray[np.uint8]]
) -> list[Block]:
    """What the report shows of single answers: errors first, and labels to check.

    Args:
        run: The run.
        test: Answers for the test images.
        shown: Those to show.
        overlays: Of some answers the image with its attribution drawn over it, by row.

    Raises:
        BcdError: An image can no longer be read.
    """
    pairs = confused_pairs(test.labels, test.probabilities.argmax(axis=1), run.catalog.classes)
    maker = _CardMaker(run, test, shown)
    cards = {row: maker.card(row, overlays.get(row)) for row in shown.examples.rows}

    def gallery(rows: Sequence[int]) -> Gallery:
        return Gallery([cards[row] for row in rows])

    examples = shown.examples
    blocks: list[Block] = [f"Confused: {'; '.join(pairs)}." if pairs else "No errors on test."]
    if examples.wrong:
        count = int((test.probabilities.argmax(axis=1) != test.labels).sum())
        blocks += [_introduction(len(examples.wrong), count, shown), gallery(examples.wrong)]
    if examples.doubtful:
        blocks += [
            "Correct answers with the smallest margin between the two most probable classes:",
            gallery(examples.doubtful),
        ]
    if examples.surest:
        blocks += ["The surest correct answers of each class:", gallery(examples.surest)]
    return blocks + maker.issue_blocks()


def _introduction(shown: int, errors: int, found: Shown) -> str:
    """What the gallery of errors shows."""
    text = f"{shown} of {errors} errors, the most confident first."
    if shown == errors:
        text = (
            f"All {errors} errors, the most confident first." if errors > 1 else "The only error."
        )
    if found.neighbours:
        return (
            f"{text} Beside each is the training image whose features, as the head gets them, are "
            "most similar; an overlap means that both show the same field."
        )
    return f"{text} report=full adds the most similar training image of each."


class _CardMaker:
    """Makes the cards of test answers.

    Args:
        run: The run.
        test: Answers for the test images.
        shown: Those to show.
    """

    def __init__(self, run: Run, test: Result, shown: Shown) -> None:
        self._catalog, self._test, self._shown = run.catalog, test, shown
        self._train, self._tested = run.split.indices("train"), run.split.indices("test")
        self._overlaps = OverlapShares(run.profile.count, run.profile.overlaps)
        found = find_label_issues(test.probabilities, test.labels)
        self._issues: dict[int, LabelIssue] = {issue.row: issue for issue in found}

    def card(self, row: int, overlay: NDArray[np.uint8] | None) -> Card:
        """The card of an answer.

        Args:
            row: Of the answer.
            overlay: The image with an overlay of what the answer rests on; None without one.
        """
        classes, index = self._catalog.classes, self._tested[row]
        label, best = int(self._test.labels[row]), int(self._test.probabilities[row].argmax())
        answer = f"{classes[label]}, correct"
        if label != best:
            answer = f"{classes[label]} called {classes[best]}"
        probabilities = zip(classes, self._test.probabilities[row], strict=True)
        reasons = self._test.predictions[row].refer
        pictures = [Picture(self._pixels(index), f"Test image: {answer}")]
        if overlay is not None:
            pictures.append(Picture(overlay, f"What the answer rests on: {answer}"))
        lines = [
            answer,
            ", ".join(f"{name} {100 * p:.1f} %" for name, p in probabilities),
            f"Referred: {', '.join(reasons)}" if reasons else "Not referred",
        ]
        if row in self._issues:
            lines.append(f"Label to check: {classes[self._issues[row].suggested]}?")
        self._add_training_images(row, pictures, lines)
        return Card(pictures, [*lines, self._path(index)])

    def _add_training_images(self, row: int, pictures: list[Picture], lines: list[str]) -> None:
        """Adds the nearest training image, and the one with the largest overlap if it differs."""
        index, near = self._tested[row], self._shown.neighbours.get(row)
        if near is not None:
            name, share = self._class(near.index), self._overlaps.share(index, near.index)
            overlap = f"overlaps by {100 * share:.0f} %" if share else "no overlap found"
            text = f"Nearest training image: {name}"
            pictures.append(Picture(self._pixels(near.index), text))
            lines.append(f"{text}, similarity {near.similarity:.2f}, {overlap}")
        largest = self._overlaps.largest(index, self._train)
        if largest is not None and (near is None or largest[0] != near.index):
            text = f"Overlapping training image: {self._class(largest[0])}"
            pictures.append(Picture(self._pixels(largest[0]), text))
            lines.append(f"{text}, overlaps by {100 * largest[1]:.0f} %")

    def issue_blocks(self) -> list[Block]:
        """Labels of test images to check; empty if there is none."""
        if not self._issues:
            return []
        rows, classes = [], self._catalog.classes
        for issue in list(self._issues.values())[:_ISSUES]:
            index = self._tested[issue.row]
            largest = self._overlaps.largest(index, self._train)
            overlap = (
                "" if largest is None else f"{self._class(largest[0])}, {100 * largest[1]:.0f} %"
            )
            figures = (issue.self_confidence, issue.suggested_probability)
            named = (classes[issue.label], classes[issue.suggested])
            rows.append([self._path(index), *named, *(f"{p:.3f}" for p in figures), overlap])
        header = [
            "file", "label", "suggested", "probability of label", "of suggested",
            "overlapping training image",
        ]  # fmt: skip
        return [
            f"Labels to check: {len(self._issues)} of {len(self._tested)} test images look like "
            "another class than their label's (confident learning). The label or the model may be "
            "wrong, so look at each.",
            Table(header, rows, numeric=False),
        ]

    def _class(self, index: int) -> str:
        return self._catalog.classes[self._catalog.images[index].label]

    def _path(self, index: int) -> str:
        return written_path(self._catalog.images[index].path)

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        return read_image(self._catalog.root / self._catalog.images[index].path)
