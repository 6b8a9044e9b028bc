"""What a predictor asks of a model, whether that is a checkpoint or an exported file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import InputView
from bcd.evaluation.decision import Decisions


@dataclass(frozen=True)
class ModelFacts:
    """What a model says about itself.

    Attributes:
        classes: Class names; index i of the probabilities is `classes[i]`.
        benign: Index of the class that is not cancer, None where there is none.
        input_views: What it gets of an image.
        mask_scale_bar: Whether the corner with the scale bar is masked.
        appearance: What the training images look like, as `Appearance.to_plain`; None if unknown.
        recalibration: For which site, if it was recalibrated; as in `Card`.
        calibrated: Whether it has a decision policy; if not, every image is referred.
        card_sha256: Of the card, as exported files hold it.
        policy: The decision policy, as `DecisionPolicy.to_plain`; None if not calibrated.
        released: Whether it is a release, whose policy was fitted to out-of-fold answers.
    """

    classes: list[str]
    benign: int | None
    input_views: tuple[InputView, ...]
    mask_scale_bar: bool
    appearance: Mapping[str, Any] | None
    recalibration: Mapping[str, Any] | None
    calibrated: bool
    card_sha256: str
    policy: Mapping[str, Any] | None = None
    released: bool = False


class Model(Protocol):
    """Maps what was read of images to decisions about them.

    Attributes:
        facts: What it says about itself.
        device: Where it runs.
        threads: Number of simultaneous calls of `answer` that keeps the machine busy.
        batch: Images per call; None for as many as the user asks for.
    """

    @property
    def facts(self) -> ModelFacts: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    @property
    def threads(self) -> int: ...  # noqa: D102

    @property
    def batch(self) -> int | None: ...  # noqa: D102

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        """Decides about n images.

        Args:
            packed: What `pack` made of the views to read of each, (n, ...).
        """
        ...
