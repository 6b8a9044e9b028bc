"""Where the configuration's files are, and configurations made from them without a command line."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from bcd.config.decision import DecisionConfig
from bcd.config.head import HeadConfig
from bcd.config.programs import (
    CellsConfig,
    CompareConfig,
    CompareDataConfig,
    EvalConfig,
    EvalDataConfig,
    EvalFeaturesConfig,
    PredictConfig,
    SiteMatchConfig,
    SiteProfileConfig,
)
from bcd.config.reference import (
    ChangeLimits,
    ReferenceConfig,
    ReferenceDataConfig,
    ReferenceSiteConfig,
)
from bcd.config.schema import (
    AugmentConfig,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    SplitConfig,
)
from bcd.config.slide import SlideConfig

Schema = TypeVar("Schema")


def _find_conf() -> Path:
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"  # a wheel carries it there
    return installed if installed.is_dir() else package.parent / "conf"


CONF = _find_conf()

# The file of each schema, and the key in it if the file holds more than the schema.
_FILES: dict[type, tuple[str, str]] = {
    DataConfig: ("data/smears", ""),
    SplitConfig: ("split/stratified", ""),
    AugmentConfig: ("augment/none", ""),
    ModelConfig: ("model/mobilenetv2", ""),
    HeadConfig: ("head/linear", ""),
    FeaturesConfig: ("features/bank", ""),
    DecisionConfig: ("train", "decision"),
    EvalConfig: ("eval", ""),
    EvalDataConfig: ("eval", "data"),
    EvalFeaturesConfig: ("eval", "features"),
    CompareConfig: ("compare", ""),
    CompareDataConfig: ("compare", "data"),
    PredictConfig: ("predict", ""),
    SiteMatchConfig: ("predict", "site"),
    SiteProfileConfig: ("site", ""),
    CellsConfig: ("cells", ""),
    SlideConfig: ("slide", ""),
    ReferenceConfig: ("reference", ""),
    ReferenceDataConfig: ("reference", "data"),
    ReferenceSiteConfig: ("reference", "site"),
    ChangeLimits: ("reference", "limits"),
}


def with_defaults(schema: type[Schema], **values: Any) -> Schema:
    """Makes a configuration from the given values and the defaults in `conf/`.

    The defaults are those of the file that the group's other files are based on; of augmentation
    they are none. Values that a file leaves to the command line (`ckpt`, `run_dir`) must be given.

    Args:
        schema: The group's dataclass, such as `ModelConfig`, or that of `eval`, `compare` or
            `predict`.
        values: The values that differ from the defaults.

    Example:
        `with_defaults(ModelConfig, backbone="resnet50", unfreeze=1)`
    """
    hints = typing.get_type_hints(schema)
    made = {}
    for name, value in {**read_defaults(*_FILES[schema]), **values}.items():
        options = (hints.get(name), *typing.get_args(hints.get(name)))
        inner: Any = next((o for o in options if dataclasses.is_dataclass(o)), None)
        made[name] = inner(**value) if inner is not None and isinstance(value, dict) else value
    return schema(**made)


def as_config(schema: type[Schema], given: Schema | Mapping[str, Any] | None) -> Schema:
    """A group given as its dataclass, or as a mapping whose missing keys have their defaults.

    Args:
        schema: The group's dataclass.
        given: The group; None for its defaults.
    """
    if isinstance(given, schema):
        return given
    values: Any = given or {}
    return with_defaults(schema, **values)


def read_defaults(name: str, key: str = "") -> dict[str, Any]:
    """The values in a file of `conf/`, without Hydra's own keys.

    Args:
        name: The file without its suffix, such as `model/mobilenetv2`.
        key: The key to read; empty for the whole file.
    """
    content = _read(name)
    return dict(content[key] if key else content)


@cache
def _read(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=False)
    found = {k: v for k, v in content.items() if k not in ("defaults", "hydra")}
    if found.get("roi") == "${data.roi}":  # there is no other group to take it from
        found["roi"] = _read("data/smears")["roi"]
    return found
