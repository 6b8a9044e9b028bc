"""Pictures of where in each predicted image the evidence for its class is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bcd.data.input_views import shown_pixels
from bcd.data.items import Answer
from bcd.data.pictures import common_folder, picture_place, write_png
from bcd.evaluation.predictions import Prediction
from bcd.explain.attribution import check_method, explain
from bcd.explain.overlay import draw_overlay
from bcd.inference.checkpoint_model import CheckpointModel, network_inputs


class Explanations:
    """Writes a picture for each predicted image, in a folder beside the rows.

    It shows the pixels that the network got, with the evidence for the predicted class drawn over
    them. A picture has the path that the image has below the common folder of all images, with
    `.png` appended, so that `a.jpg` and `a.png` have different ones.

    Args:
        model: Whose answers are explained.
        method: As `explain` of `bcd.explain.attribution` takes it.
        rows: The file of the predictions. The folder is `explanations`, or
            `<name>_explanations` beside a file that is not named `predictions`.
        paths: All images.

    Attributes:
        folder: Of the pictures.
        written: Number of pictures.
        empty: Number of those without any evidence for the class.
        method: How the pictures were made; None before the first.

    Raises:
        BcdError: The checkpoint's head does not allow the method.
    """

    def __init__(
        self, model: CheckpointModel, method: str, rows: Path, paths: Sequence[Path]
    ) -> None:
        check_method(model.network, method)
        own = "" if rows.stem == "predictions" else f"{rows.stem}_"
        self.folder = rows.parent / f"{own}explanations"
        self.written = self.empty = 0
        self.method: str | None = None
        self._model, self._asked = model, method
        self._root = common_folder(paths)
        self._names: set[str] = set()

    def draw(self, batch: Sequence[tuple[Prediction, Answer]]) -> list[Prediction]:
        """Writes pictures, and returns the predictions with their paths.

        Args:
            batch: Predictions with the pixels that the network got; those without an answer get no
                picture.

        Raises:
            BcdError: The network does not allow the method.
            OSError: A picture cannot be written.
        """
        classes = [p.best for p, _ in batch]
        chosen = [i for i, best in enumerate(classes) if best is not None]
        made = [replace(prediction, explanation="") for prediction, _ in batch]
        if not chosen:
            return made
        pixels = [answer for i in chosen if not isinstance(answer := batch[i][1], str)]
        targets = torch.tensor([best for best in classes if best is not None])
        found = explain(self._model.network, network_inputs(pixels), targets, method=self._asked)
        self.method = found.method
        self.empty += int(found.empty.sum())
        for i, packed, values in zip(chosen, pixels, found.maps, strict=True):
            image = shown_pixels(packed, self._model.card.input_views)
            file = self.folder / self._name(Path(made[i].path))
            write_png(file, draw_overlay(image, values))
            made[i] = replace(made[i], explanation=file.relative_to(self.folder.parent).as_posix())
        self.written += len(chosen)
        return made

    def _name(self, path: Path) -> str:
        """The picture's path in the folder; a number makes names different that would be equal."""
        place = picture_place(path, self._root)
        number, full = 1, place.as_posix()
        while full.casefold() in self._names:  # some file systems ignore case
            number += 1
            full = place.with_name(f"{place.stem} ({number}).png").as_posix()
        self._names.add(full.casefold())
        return full
