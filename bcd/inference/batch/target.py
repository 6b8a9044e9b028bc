"""Where predictions go: one file, or a folder of parts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bcd.config.programs import PredictConfig
from bcd.errors import ConfigError
from bcd.inference.batch.lists import import_parquet
from bcd.inference.batch.shards import find_shard
from bcd.storage import typed_path


@dataclass(frozen=True)
class Target:
    """Where predictions go.

    Attributes:
        path: A file, or a folder.
        folder: Whether it is a folder of parts.
        form: `csv`, `json` or `parquet`.
    """

    path: Path
    folder: bool
    form: str


def find_target(cfg: PredictConfig) -> Target:
    """Returns where `output` and `format` say that predictions go.

    Args:
        cfg: `output` is a file if it ends in .csv or .json, and a folder if it exists as one, ends
            in a slash or has no suffix; None is a file in the run folder.

    Raises:
        BcdError: pyarrow is needed and not installed.
        ConfigError: It is neither, or the format or another setting does not fit it.
    """
    output = cfg.output
    path = typed_path(output or f"{cfg.run_dir}/predictions.{cfg.format}")
    slash = output is not None and output.endswith(("/", os.sep))
    suffix = path.suffix.lower()
    if not slash and suffix in (".csv", ".json"):
        if find_shard(cfg.shard).count > 1:
            raise ConfigError(f"shard={cfg.shard}: needs output=<folder>, which takes all shards")
        if cfg.format == "parquet":
            raise ConfigError("format=parquet: needs output=<folder>")
        return Target(path, False, suffix[1:])
    if output is None:
        raise ConfigError("format=parquet: needs output=<folder>")
    if suffix and not slash and not path.is_dir():
        raise ConfigError(
            f"output={output}: must end in .csv or .json, or be a folder (with / at its end if its "
            "name has a dot)"
        )
    if cfg.format == "json":
        raise ConfigError(
            f"format=json: output={output} is a folder, whose parts are csv or parquet"
        )
    if cfg.explain:
        raise ConfigError(f"explain={cfg.explain}: needs output=<file>.csv or .json, not a folder")
    if cfg.format == "parquet":
        import_parquet("format=parquet")
    return Target(path, True, cfg.format)
