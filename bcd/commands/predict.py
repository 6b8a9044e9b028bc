"""Predicts the class of images with a checkpoint, or with a file from bcd export.

bcd predict ckpt=<checkpoint or run folder> input=<file, folder, glob, list or archive>
bcd predict ckpt=<checkpoint or run folder> input=[a.jpg,folder] format=json
bcd predict ckpt=<checkpoint or run folder> input=<folder, list or archive> output=<folder>
bcd predict model=<file from bcd export> input=<file, folder, glob, list or archive>
"""

import os
import sys
from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def prepare() -> None:
    """Starts a reading process, which imports what it needs while this one does the same."""
    if any(argument.startswith("input=") for argument in sys.argv):
        from bcd.data.reader_process import start_early

        start_early()


def main(cfg: "DictConfig") -> int:
    """Predicts; returns 3 if predictions or DICOM objects are missing, except to torchrun."""
    from bcd.cli.paths import mapped_path
    from bcd.config.check import check_config
    from bcd.config.programs import PredictConfig

    cfg.model = mapped_path(cfg.model)
    with quick_imports():
        checked = check_config(cfg, PredictConfig)
        from bcd.inference.predict import predict

    tally = predict(checked)
    if not tally.unanswered and not tally.without_objects:
        return 0
    # torchrun ends all other processes when one has another status.
    return 0 if checked.shard == "auto" and "TORCHELASTIC_RUN_ID" in os.environ else 3
