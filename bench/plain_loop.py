"""A typical Lightning script for a frozen MobileNetV2, as a baseline for timings."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A  # noqa: N812
import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchvision.models import mobilenet_v2

Item = tuple[Path, int]
NORMALIZE = A.Compose([A.Normalize(), A.ToTensorV2()])
AUGMENT = A.Compose(
    [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), keep_ratio=True, p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0, p=0.5),
        A.Normalize(),
        A.ToTensorV2(),
    ]
)


class Images(Dataset[tuple[Tensor, int]]):
    """Decodes an image and transforms it."""

    def __init__(self, items: list[Item], transform: Any) -> None:
        self.items = items
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The normalized image and its label."""
        path, label = self.items[index]
        image = np.array(Image.open(path).convert("RGB").resize((224, 224)))
        return self.transform(image=image)["image"], label


class Model(pl.LightningModule):
    """Frozen features, a linear head."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        network = mobilenet_v2()
        if weights:
            network.load_state_dict(torch.load(weights, weights_only=True))
        self.features = network.features.requires_grad_(False)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 4))
        scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(4, average="micro"),
                "precision": MulticlassPrecision(4),
                "recall": MulticlassRecall(4),
                "f1": MulticlassF1Score(4),
            }
        )
        self.scores = nn.ModuleDict(
            {f"{part}_scores": scores.clone(f"{part}/") for part in ("train", "val", "test")}
        )

    def on_train_epoch_start(self) -> None:
        """Keeps BatchNorm layers in eval mode."""
        self.features.eval()

    def _step(self, batch: tuple[Tensor, Tensor], part: str) -> Tensor:
        with torch.no_grad():
            features = self.features(batch[0]).mean((2, 3))
        logits = self.head(features)
        loss = nn.functional.cross_entropy(logits, batch[1])
        scores: Any = self.scores[f"{part}_scores"]
        scores(logits, batch[1])
        self.log(f"{part}/loss", loss)
        self.log_dict(scores, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Figures of a batch."""
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Figures of a batch."""
        self._step(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the head."""
        return torch.optim.Adam(self.head.parameters(), lr=0.005)


def main() -> None:
    """Trains, validates every epoch and tests the best epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out")
    parser.add_argument("--weights")
    parser.add_argument("--epochs", type=int, default=5)
    asked = parser.parse_args()
    pl.seed_everything(0)
    folders = sorted(folder for folder in asked.data.iterdir() if folder.is_dir())
    items = [(f, k) for k, folder in enumerate(folders) for f in sorted(folder.iterdir())]
    rest, test = train_test_split(items, test_size=0.3, stratify=[k for _, k in items])
    train, val = train_test_split(rest, test_size=0.1, stratify=[k for _, k in rest])

    def loader(part: list[Item], transform: Any, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            Images(part, transform),
            batch_size=16,
            shuffle=shuffle,
            num_workers=os.cpu_count() or 1,
            persistent_workers=True,
        )

    trainer = pl.Trainer(
        max_epochs=asked.epochs,
        default_root_dir=asked.out,
        callbacks=[pl.callbacks.ModelCheckpoint(monitor="val/loss")],
    )
    trainer.fit(Model(asked.weights), loader(train, AUGMENT, True), loader(val, NORMALIZE))
    trainer.test(dataloaders=loader(test, NORMALIZE), ckpt_path="best", weights_only=True)


if __name__ == "__main__":
    main()
