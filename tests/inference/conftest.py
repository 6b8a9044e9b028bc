"""Fixtures of the tests of predicting."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcd.inference.predict import predict
from bcd.training.run import train
from tests.helpers.exported import make_exported
from tests.helpers.harness import SMALL, predict_config, train_config
from tests.helpers.noise import noise, write_image
from tests.helpers.parts import COUNT, settings


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its exported file, and images; see `make_exported`."""
    folder = tmp_path_factory.mktemp("exported")
    make_exported(folder)
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which no test changes anything."""
    folder = tmp_path_factory.mktemp("small")
    train(train_config(folder / "run", *SMALL, f"data.root={folder / 'images'}"))
    return folder / "run"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `COUNT` images, and their rows, which one run wrote into one file."""
    place = tmp_path_factory.mktemp("place")
    train(train_config(place / "run", *SMALL, f"data.root={place / 'train'}"))
    for i in range(COUNT - 2):
        write_image(place / "in" / f"{i}.png", noise(i, i, size=48))
    (place / "in" / "0 empty.png").touch()
    (place / "in" / "7 text.png").write_text("no image")
    predict(predict_config(place, *settings(place)))
    return place
