"""What the package imports is declared, and what a feature depends on is in its bank's key."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.features.cache_key import CacheKey, plain_key, view_key
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from tests.helpers.harness import ROOT

LOCAL = {"bcd", "bench", "tests", "promises", *(file.stem for file in ROOT.glob("tests/*.py"))}
# Another interpreter's, which `bench.paper --keras` names; and what openvino brings.
ELSEWHERE = {"keras", "openvino_telemetry"}


def imported(*patterns: str) -> set[str]:
    """Top-level packages that files import, the standard library's and ours left out."""
    names = set()
    for file in (file for pattern in patterns for file in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - LOCAL


def test_every_import_is_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tables = text.partition("\ndependencies = [")[2].partition("[tool.")[0]
    declared = set(re.findall(r'"([a-z0-9.-]+)[^"]*[<>]=?[^"]*"', tables.lower()))
    known = packages_distributions()
    ours = imported("*.py", "bcd/**/*.py")
    assert {"cv2", "yaml", "omegaconf"} <= ours
    for name in ours | imported("bench/**/*.py", "tests/**/*.py") - ELSEWHERE:
        distributions = {d.lower().replace("_", "-") for d in known.get(name, [name])}
        assert distributions & declared, f"{name} is imported but not declared"


def plain() -> CacheKey:
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=None, input_size=48)
    torch.manual_seed(0)
    prefix = SmearNetwork(build_backbone(cfg), 2, cfg).prefix
    return plain_key(cfg, prefix, "onnxruntime 1.0 cpu float32", "float32", False)


def test_a_bank_is_another_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plain().key
    assert plain().key == before
    real = importlib.import_module("bcd.features.cache_key").version
    monkeypatch.setattr(
        "bcd.features.cache_key.version", lambda name: "0.0" if name == "torch" else real(name)
    )
    assert plain().key != before


def test_a_bank_is_another_for_another_source_of_a_transform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = (
        "import albumentations\n"
        "class Mine(albumentations.NoOp):\n    strength = {}\n"
        "def mine(image, **others):\n    return image\n"
    )
    (tmp_path / "own_transform.py").write_text(source.format(1))
    mine = {"_target_": "own_transform.Mine"}
    nested = {"_target_": "albumentations.OneOf", "transforms": [mine]}
    looked_up = {"_target_": "hydra.utils.get_method", "path": "own_transform.mine"}
    function = {"_target_": "albumentations.Lambda", "image": looked_up}
    cache_keys = [
        with_defaults(AugmentConfig, transforms=[node]) for node in (mine, nested, function)
    ]
    before = [view_key(plain(), cache_key, 0).key for cache_key in cache_keys]
    assert [view_key(plain(), cache_key, 0).key for cache_key in cache_keys] == before
    (tmp_path / "own_transform.py").write_text(source.format(2))
    after = [view_key(plain(), cache_key, 0).key for cache_key in cache_keys]
    assert not set(before) & set(after)
    assert "torchvision" in plain().facts["versions"]
    drawn = view_key(
        plain(), with_defaults(AugmentConfig, transforms=[{"_target_": "albumentations.NoOp"}]), 0
    )
    assert drawn.facts["augment"]["sources"] == {}
