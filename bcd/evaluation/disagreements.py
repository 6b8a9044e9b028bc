"""Images of which two models say different things: which they are, and who was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Disagreement:
    """What two models say of an image.

    Attributes:
        index: Of the image, among those compared.
        label: Its true class.
        said: Class that each model says.
        certain: Probability that each gives to it.
    """

    index: int
    label: str
    said: tuple[str, str]
    certain: tuple[float, float]

    @property
    def right(self) -> str:
        """`a`, `b` or `neither`."""
        if self.label not in self.said:
            return "neither"
        return "ab"[self.said.index(self.label)]


def find_disagreements(
    a: NDArray[np.floating[Any]],
    b: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
) -> list[Disagreement]:
    """Finds disagreements; first those where the less certain model is most certain.

    Args:
        a: Probabilities (n, classes) of one model.
        b: Of the other, with classes in the same order.
        labels: (n,).
        classes: Class names.
    """
    found = []
    for index in np.flatnonzero(a.argmax(axis=1) != b.argmax(axis=1)):
        best = [int(p[index].argmax()) for p in (a, b)]
        said = (classes[best[0]], classes[best[1]])
        certain = (float(a[index, best[0]]), float(b[index, best[1]]))
        found.append(Disagreement(int(index), classes[labels[index]], said, certain))
    return sorted(found, key=lambda d: (-min(d.certain), d.index))
