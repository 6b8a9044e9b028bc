"""Maps of images whose white cells the network gets one by one (`data.roi=cells`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bcd.config.input_views import InputView
from bcd.data.roi import cell_boxes
from bcd.models.cells import unpack_cells


def place_on_images(maps: Tensor, x: Tensor, view: InputView) -> Tensor:
    """Adds the maps of cells at the places that their crops were cut from.

    Args:
        maps: Of all cells of all images, in order, (cells, 1, side, side).
        x: As the network takes it, (N, values).
        view: The input view, of cells.

    Returns:
        (N, image side, image side).
    """
    side, present = view.image_side, unpack_cells(x, view)[1]
    total = x.new_zeros(len(x), side, side)
    cells = iter(maps)
    for row, values in enumerate(x):
        image = values[: 3 * side**2].reshape(side, side, 3).byte().cpu().numpy()
        boxes = cell_boxes(image)
        assert len(boxes) == int(present[row].sum())
        for top, left, own in boxes:
            small = functional.interpolate(
                next(cells)[None], (own, own), mode="bilinear", align_corners=False
            )
            # With the same sum, however large the window is.
            total[row, top : top + own, left : left + own] += small[0, 0] * (view.side / own) ** 2
    return total


def one_with_cells(x: Tensor, view: InputView) -> Tensor:
    """The first image that has cells, (1, values); (0, values) if there is none.

    Args:
        x: As the network takes it, (N, values).
        view: The input view, of cells.
    """
    return x[torch.nonzero(unpack_cells(x, view)[1].any(1))[:1, 0]]
