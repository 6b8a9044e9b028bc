"""What the manifest of a folder of predictions says about how its rows are made."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bcd.config.programs import PredictConfig
from bcd.data.dicom.keeping import check_keep
from bcd.data.site_profile import read_profile
from bcd.errors import BcdError
from bcd.inference.batch.shards import Shard
from bcd.inference.batch.target import Target
from bcd.run_folder import find_checkpoint
from bcd.storage import file_sha256, typed_path


def model_facts(cfg: PredictConfig) -> dict[str, Any]:
    """What a manifest says about the model: name and sha256 of its file.

    Raises:
        BcdError: The file cannot be read.
    """
    file = typed_path(cfg.model) if cfg.model is not None else find_checkpoint(str(cfg.ckpt))
    try:
        return {"file": file.name, "sha256": file_sha256(file)}
    except OSError as error:
        key = "model" if cfg.model is not None else "ckpt"
        raise BcdError(f"{key}={file}: cannot be read ({error.strerror})") from error


def row_settings(
    cfg: PredictConfig, inputs: list[str], target: Target, shard: Shard
) -> dict[str, Any]:
    """Everything but the model that determines the rows, their parts and their DICOM objects."""
    return {
        "input": [text.rstrip("/") or text for text in inputs],
        # Relative inputs are others in another folder.
        "working_folder": None if all(map(os.path.isabs, inputs)) else str(Path.cwd()),
        "input_column": cfg.input_column,
        "limit": cfg.limit,
        "shard": str(shard),
        "format": target.form,
        "part_rows": cfg.part_rows,
        "uncalibrated": cfg.uncalibrated,
        "site": _site_facts(cfg),
        "dicom.keep": list(check_keep(cfg.dicom.keep)),
        # Not rows, but made with each part: those that are there already would have none.
        "dicom.output": cfg.dicom.output,
        "dicom.objects": None if cfg.dicom.output is None else list(cfg.dicom.objects),
    }


def _site_facts(cfg: PredictConfig) -> dict[str, Any] | None:
    if cfg.site.profile is None:
        return None
    read_profile(cfg.site.profile)  # checks it
    return asdict(cfg.site) | {"sha256": file_sha256(typed_path(cfg.site.profile))}
