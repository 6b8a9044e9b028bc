"""Features of the test images for TensorBoard's projector, with labels and thumbnails."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bcd.console import printable
from bcd.data.datamodule import SmearDataModule
from bcd.data.reading import fit, read_image
from bcd.evaluation.results import Result
from bcd.models.network import SmearNetwork
from bcd.storage import replacing, write_text

FOLDER, CONFIG = "projector", "projector_config.pbtxt"  # TensorBoard looks for this name
_SIDE = 48  # of a thumbnail, in pixels
_MOST = 4096  # images; their sprite has 3,072 pixels, and WebGL allows 8,192
_COMPONENTS = 50  # the projector itself keeps no more of more than 200

_CONFIG = """embeddings {{
  tensor_name: "test"
  tensor_path: "{folder}/tensors.tsv"
  metadata_path: "{folder}/metadata.tsv"
  sprite {{
    image_path: "{folder}/sprite.jpg"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
}}
"""


def write_projector(
    folder: Path,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    result: Result,
    device: torch.device,
) -> None:
    """Writes `projector/` and `projector_config.pbtxt`, where TensorBoard finds them.

    The features are the head's input, reduced to their first principal components.

    Args:
        folder: The run folder.
        network: With the weights that were tested.
        datamodule: Gives the test images, in the order of `result`.
        result: Of test.
        device: Where to compute.
    """
    indices = datamodule.split.indices("test")
    chosen = np.arange(0, len(indices), -(-len(indices) // _MOST))
    features = _features(network, datamodule, device)[chosen]
    classes = datamodule.catalog.classes
    rows = ["label\tprediction\tcorrect\timage"]
    for place in chosen:
        p = result.predictions[place]
        best = classes[int(result.probabilities[place].argmax())]
        cells = (p.label, best, str(best == p.label).lower(), p.path)
        rows.append("\t".join(map(printable, cells)))
    catalog = datamodule.catalog
    files = [catalog.root / catalog.images[indices[place]].path for place in chosen]
    table = io.StringIO()
    np.savetxt(table, _components(features), fmt="%.5g", delimiter="\t")
    write_text(folder / FOLDER / "tensors.tsv", table.getvalue())
    write_text(folder / FOLDER / "metadata.tsv", "\n".join(rows) + "\n")
    with replacing(folder / FOLDER / "sprite.jpg") as stream:
        stream.write(_sprite(files))
    write_text(folder / CONFIG, _CONFIG.format(folder=FOLDER, side=_SIDE))


@torch.inference_mode()
def _features(
    network: SmearNetwork, datamodule: SmearDataModule, device: torch.device
) -> NDArray[np.float32]:
    network.eval().to(device)
    loader = datamodule.plain_loader("test")
    parts = [network.vectors(inputs.to(device)).float().cpu().numpy() for inputs, _ in loader]
    return np.concatenate(parts)


def _components(features: NDArray[np.float32]) -> NDArray[Any]:
    """The first principal components of features (n, d)."""
    left, lengths, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    return np.asarray((left * lengths)[:, :_COMPONENTS])


def _sprite(files: Sequence[Path]) -> bytes:
    """Thumbnails in a square, row by row, as JPEG."""
    columns = int(np.ceil(np.sqrt(len(files))))
    sheet = np.full((columns * _SIDE, columns * _SIDE, 3), 255, np.uint8)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        thumbnails = pool.map(lambda file: fit(read_image(file), _SIDE), files)
        for place, pixels in enumerate(thumbnails):
            top, left = (_SIDE * part for part in divmod(place, columns))
            sheet[top : top + _SIDE, left : left + _SIDE] = pixels
    _, code = cv2.imencode(".jpg", sheet[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return code.tobytes()
