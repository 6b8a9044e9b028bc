"""Drawn smears of one class with a sign at a known place, which alone tells the class."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.data.synthetic.smears import draw_smear
from bcd.explain.attribution import explain
from bcd.explain.overlay import top_pixels
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork

SIDE, SIGN = 96, 28
KINDS = 3


def sign(kind: int) -> NDArray[np.uint8]:
    """A dark disc, ring or cross (SIGN, SIGN), 255 where it is."""
    drawn, middle = np.zeros((SIGN, SIGN), np.uint8), SIGN // 2
    if kind == 2:
        cv2.line(drawn, (3, 3), (SIGN - 4, SIGN - 4), 255, 7)
        cv2.line(drawn, (3, SIGN - 4), (SIGN - 4, 3), 255, 7)
    else:
        cv2.circle(drawn, (middle, middle), middle - 3, 255, -1 if kind == 0 else 4)
    return drawn


@dataclass
class Planted:
    images: Tensor
    labels: Tensor
    places: NDArray[np.bool_]


def planted(count: int, seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    bases = [draw_smear("Benign", slide=i % 4, index=i, seed=seed, size=SIDE) for i in range(24)]
    images = np.stack([bases[i % 24] for i in range(count)])
    labels = rng.permutation(np.arange(count) % KINDS)
    places = np.zeros((count, SIDE, SIDE), dtype=bool)
    for image, label, place in zip(images, labels, places, strict=True):
        top, left = rng.integers(0, SIDE - SIGN, 2)
        square = image[top : top + SIGN, left : left + SIGN]
        square[:] = (225, 215, 90)
        square[sign(int(label)) > 0] = (30, 90, 60)
        place[top : top + SIGN, left : left + SIGN] = True
    return Planted(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels), places)


def fitted(seen: Planted) -> SmearNetwork:
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=None, input_size=SIDE,
                        unfreeze="all", batchnorm="trained")  # fmt: skip
    torch.manual_seed(0)
    network = SmearNetwork(build_backbone(cfg), KINDS, cfg).train()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(9):
        for part in torch.randperm(len(seen.labels)).split(16):
            loss: Tensor = nn.functional.cross_entropy(
                network(seen.images[part]), seen.labels[part]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


if __name__ == "__main__":
    import time

    from bcd.explain.overlay import draw_overlay

    torch.set_num_threads(1)
    t = time.time()
    n = fitted(planted(180, 1))
    print("train", time.time() - t)
    new = planted(36, 2)
    with torch.no_grad():
        print("acc", (n(new.images).argmax(1) == new.labels).float().mean())
    for m in ("gradcam", "integrated_gradients", "occlusion"):
        a = explain(n, new.images, method=m)
        on = [(top_pixels(v) & p).sum() / top_pixels(v).sum() for v, p in zip(a.maps, new.places)]
        print(
            m,
            np.mean(on),
            np.mean([v[p].sum() for v, p in zip(a.maps, new.places)]),
            a.empty.sum(),
            SIGN**2 / SIDE**2,
        )
        ims = new.images.permute(0, 2, 3, 1).numpy()
        cv2.imwrite(
            f"/tmp/planted-{m}.png",
            np.concatenate(
                [np.concatenate([ims[i], draw_overlay(ims[i], a.maps[i])], 0) for i in range(10)], 1
            )[:, :, ::-1],
        )
