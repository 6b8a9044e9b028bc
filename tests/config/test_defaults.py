"""Defaults are in `conf/` alone."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bcd.config.check import check_config
from bcd.config.compose import CONF, with_defaults
from bcd.config.decision import DecisionConfig
from bcd.config.head import FITTED_HEADS, TRAINED_HEADS, HeadConfig
from bcd.config.programs import (
    AuditConfig,
    CompareConfig,
    EvalConfig,
    PredictConfig,
    SiteProfileConfig,
)
from bcd.config.schema import DataConfig, ModelConfig, SplitConfig
from bcd.config.training import TrainConfig
from bcd.errors import ConfigError
from tests.helpers.harness import eval_config, train_config

PROGRAMS = (
    TrainConfig,
    AuditConfig,
    EvalConfig,
    CompareConfig,
    PredictConfig,
    SiteProfileConfig,
)


def schemas(root: type) -> set[type]:
    """A schema and all schemas within it."""
    found = {root}
    for hint in typing.get_type_hints(root).values():
        for option in (hint, *typing.get_args(hint)):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                found |= schemas(option)
    return found


def test_no_schema_has_a_default() -> None:
    every = set().union(*map(schemas, PROGRAMS))
    assert {DataConfig, SplitConfig, ModelConfig, HeadConfig, DecisionConfig} < every
    for schema in every:
        for field in dataclasses.fields(schema):
            name = f"{schema.__name__}.{field.name}"
            assert field.default is dataclasses.MISSING, name
            assert field.default_factory is dataclasses.MISSING, name


def test_defaults_without_a_command_line_are_those_of_the_commands(tmp_path: Path) -> None:
    cfg = train_config(tmp_path)
    assert with_defaults(DataConfig) == cfg.data
    assert with_defaults(SplitConfig) == cfg.split
    assert with_defaults(ModelConfig) == cfg.model
    assert with_defaults(HeadConfig) == cfg.head
    assert with_defaults(DecisionConfig) == cfg.decision
    asked = eval_config(tmp_path, "ckpt=x")
    assert with_defaults(EvalConfig, ckpt="x", run_dir=str(tmp_path)) == asked
    assert with_defaults(ModelConfig, dropout=0.5) == dataclasses.replace(cfg.model, dropout=0.5)


@pytest.mark.parametrize("kind", [*TRAINED_HEADS, *FITTED_HEADS])
def test_every_head_has_all_keys(kind: str, tmp_path: Path) -> None:
    head = train_config(tmp_path, f"head={kind}").head
    assert head.kind == kind
    assert (10 if kind == "svm" else 1) == head.C
    assert dataclasses.replace(head, kind="linear", C=1.0) == with_defaults(HeadConfig)


def test_a_key_that_is_missing_is_named() -> None:
    cfg: Any = OmegaConf.load(CONF / "eval.yaml")
    cfg.ckpt = cfg.run_dir = "x"
    content = {key: cfg[key] for key in cfg if key not in ("defaults", "hydra", "features")}
    content["data"] = dict(cfg.data)
    with pytest.raises(ConfigError, match=r"features is missing: give features="):
        check_config(OmegaConf.create(content), EvalConfig)
    del content["data"]["root"]
    with pytest.raises(ConfigError, match=r"data\.root is missing"):
        check_config(OmegaConf.create(content), EvalConfig)


@pytest.mark.parametrize("file", sorted((CONF / "split").glob("*.yaml")), ids=lambda f: f.stem)
def test_split_files_repeat_no_value_of_their_base(file: Path) -> None:
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    if file.stem == "stratified":
        assert set(content) == {field.name for field in dataclasses.fields(SplitConfig)}
        return
    assert content.pop("defaults") == ["stratified"]
    base = dataclasses.asdict(with_defaults(SplitConfig))
    assert all(base[name] != value for name, value in content.items())
