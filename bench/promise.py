"""How often thresholds miss their guarantee if val also selected epoch and temperature.

python -m bench.promise
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.answers import softmax
from bcd.evaluation.calibration import fit_temperature
from bcd.evaluation.decision import p_malignant
from bcd.evaluation.metrics import losses
from bcd.evaluation.thresholds import threshold_for_sensitivity

Floats = NDArray[np.float64]

CLASSES, BENIGN, CONFIDENCE = 4, 0, 0.9
IMAGES = 20_000  # represent the whole population
SIZES = (60, 145, 460, 1000)  # approximate number of malignant val images


def main() -> None:
    """Prints a Markdown table: the share of val sets that missed, by the size of val."""
    parser = argparse.ArgumentParser(prog="python -m bench.promise", description=__doc__)
    parser.add_argument("--draws", type=int, default=500, help="simulated val sets for each row")
    parser.add_argument(
        "--epochs", type=int, default=5, help="number of epochs to select from, all equally good"
    )
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES, IMAGES, p=(0.16, 0.3, 0.29, 0.25))
    epochs = simulate(rng, labels, asked.epochs)
    print(
        f"{asked.draws} val sets per row, {asked.epochs} epochs; share that missed the guarantee\n"
    )
    print("| malignant in val | target | fixed beforehand | temperature | epoch and temperature |")
    print("|---:|---:|---:|---:|---:|")
    for size in SIZES:
        for target in (0.95, 0.995):
            missed = np.zeros(3)
            for _ in range(asked.draws):
                val = rng.choice(IMAGES, round(size / 0.84), replace=False)
                best = int(np.argmin([loss(logits[val], labels[val]) for logits in epochs]))
                missed += [
                    misses(epochs[epoch], labels, val, target, fitted)
                    for epoch, fitted in ((0, False), (0, True), (best, True))
                ]
            cells = " | ".join(f"{share:.3f}" for share in missed / asked.draws)
            print(f"| {size} | {target} | {cells} |")


def simulate(rng: np.random.Generator, labels: NDArray[np.int64], epochs: int) -> list[Floats]:
    """Logits (n, classes) of every epoch: a common part and a small part of its own."""
    shared = rng.normal(size=(len(labels), CLASSES)) + 3 * np.eye(CLASSES)[labels]
    return [1.7 * (shared + 0.3 * rng.normal(size=shared.shape)) for _ in range(epochs)]


def loss(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood, used to select an epoch."""
    return float(losses(softmax(logits), labels).mean())


def misses(
    logits: Floats, labels: NDArray[np.int64], val: NDArray[np.int64], target: float, fitted: bool
) -> bool:
    """Whether a threshold finds fewer of all malignant images than it guarantees."""
    temperature = fit_temperature(logits[val], labels[val]) if fitted else 1.0
    ill = p_malignant(softmax(logits / temperature), BENIGN)
    malignant = labels != BENIGN
    found = threshold_for_sensitivity(ill[val], malignant[val], target, CONFIDENCE)
    return bool((ill[malignant] >= found.threshold).mean() < found.guaranteed)


if __name__ == "__main__":
    main()
