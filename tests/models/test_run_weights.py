"""Starting from the backbone of another run, whatever its classes were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bcd.data.synthetic.smears import write_smears
from bcd.errors import BcdError
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import count_trained
from bcd.models.backbones.run_weights import weights_sources
from bcd.models.checkpoint_content import read_content
from bcd.training.build import make_classifier, make_run
from bcd.training.run import TrainResult, train
from bcd.training.warnings import pretraining_warnings
from tests.helpers.harness import SMALL, error_lines, script, train_config
from tests.helpers.noise import write_classes

BEST = Path("checkpoints") / "best.ckpt"
FROZEN = ("model.unfreeze=0", "model.batchnorm=frozen", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A first run, on normal cells: folders of three classes with other names."""
    folder = tmp_path_factory.mktemp("cells")
    write_classes(folder / "images", {"eosinophil": 8, "lymphocyte": 8, "monocyte": 8})
    words = ("data=smears", f"data.root={folder / 'images'}", "data.benign=null", "logger=none")
    result = train(train_config(folder / "run", *SMALL, *words, "data.generate=null"))
    assert result is not None
    return result
