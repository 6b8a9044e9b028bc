"""Settings that must not be ignored or replaced silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.config.training import TrainConfig
from bcd.data.catalog import Catalog
from bcd.data.layouts import benign_index
from bcd.errors import ConfigError
from bcd.models.finetuning import learning_rate
from bcd.training.run import TrainResult, train
from bcd.training.warnings import setting_warnings
from tests.helpers.harness import SMALL, train_config

FROZEN = ("model=mobilenetv2", "model.weights=null", "model.input_size=48")
CLASSES = ("Benign", "Early Pre-B", "Pre-B", "Pro-B")
CATALOG = Catalog(Path(), CLASSES, 0, (), ())


def run(run_dir: Path, *overrides: str) -> TrainResult:
    root = run_dir.parent / "images"
    cfg = train_config(run_dir, *SMALL, "logger=none", f"data.root={root}", *overrides)
    result = train(cfg)
    assert result is not None
    return result


def test_a_missing_learning_rate_is_that_of_the_class() -> None:
    assert learning_rate({"_target_": "torch.optim.Adadelta"}) == 1.0
    assert learning_rate({"_target_": "torch.optim.Adam"}) == 0.001
    assert learning_rate({"_target_": "torch.optim.Adam", "lr": 0.5}) == 0.5
    with pytest.raises(ConfigError, match=r"optimizer\.lr is missing"):
        learning_rate({"_target_": "torch.optim.swa_utils.SWALR"})


def test_without_a_learning_rate_the_optimizer_takes_its_own(tmp_path: Path) -> None:
    own = "optimizer._target_=torch.optim.Adadelta"
    result = run(tmp_path / "run", own, "~optimizer.lr", "trainer.max_epochs=1")
    assert {group["lr"] for group in result.trainer.optimizers[0].param_groups} == {1.0}


def test_the_learning_rate_decays_when_val_does_not_improve(tmp_path: Path) -> None:
    result = run(tmp_path / "run", "scheduler=plateau", "scheduler.patience=0", "optimizer=sgd",
                 "optimizer.lr=1e-12", "model.batchnorm=frozen",
                 "trainer.max_epochs=4")  # fmt: skip
    (group,) = {group["lr"] for group in result.trainer.optimizers[0].param_groups}
    # The first validation is the best one; each of the three after it takes off nine tenths.
    assert group == pytest.approx(1e-12 * 0.1**3)
    rare = run(tmp_path / "rare", "scheduler=plateau", "trainer.max_epochs=3",
               "trainer.check_val_every_n_epoch=2")  # fmt: skip
    assert len(rare.classifier.history) == 3


def test_statistics_stay_while_the_head_is_trained_alone(tmp_path: Path) -> None:
    settings = (*FROZEN, "model.unfreeze=2", "model.batchnorm=trained", "model.unfreeze_from=1")
    last = ("callbacks.best.monitor=epoch", "callbacks.best.mode=max")

    def statistics(epochs: int) -> dict[str, torch.Tensor]:
        name = f"trainer.max_epochs={epochs}"
        network = run(tmp_path / str(epochs), *settings, *last, name).classifier.network
        return {n: b for n, b in network.trunk.named_buffers() if "running" in n}

    alone, both = statistics(1), statistics(2)
    assert alone
    for name, value in alone.items():
        assert torch.equal(value, torch.full_like(value, float(name.endswith("var")))), name
    assert any(not torch.equal(alone[name], value) for name, value in both.items())


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"fold": 2}, r"split\.fold=2: there are no folds"),
        ({"kind": "grouped", "fold": 1}, r"split\.fold=1: there are no folds"),
        ({"folds": 5}, r"split\.folds=5: split=stratified has no folds"),
        ({"kind": "csv", "folds": 5}, r"split\.folds=5: split=csv has no folds"),
    ],
)
def test_a_fold_without_folds_is_an_error(values: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        with_defaults(SplitConfig, **values)


def test_a_named_benign_class_must_exist() -> None:
    assert benign_index(CLASSES, "Benign") == benign_index(CLASSES, "hematogones") == 0
    assert benign_index(("Normal", "Sick"), "Normal") == 0
    assert benign_index(("Normal", "Sick"), with_defaults(DataConfig).benign) is None
    assert benign_index(CLASSES, None) is None
    with pytest.raises(ConfigError, match=r"data\.benign=Nrmal: .* did you mean 'Normal'"):
        benign_index(("Normal", "Sick"), "Nrmal")


def config(tmp_path: Path, *overrides: str) -> TrainConfig:
    return train_config(tmp_path, "trainer.max_epochs=2", *overrides)


def test_a_missing_default_benign_class_is_a_warning(tmp_path: Path) -> None:
    other = Catalog(Path(), ("Normal", "Sick"), None, (), ())
    (line,) = setting_warnings(config(tmp_path), other, {})
    assert "no class is 'Benign', so there are no clinical figures" in line
    assert setting_warnings(config(tmp_path, "data.benign=null"), other, {}) == []
    assert setting_warnings(config(tmp_path), CATALOG, {}) == []


@pytest.mark.parametrize(
    ("overrides", "key", "reason"),
    [
        (("head=svm",), "optimizer.lr", "head=svm is fitted"),
        (("head=svm",), "optimizer", "head=svm is fitted"),
        (("head=svm",), "augment.mixup", "head=svm is fitted"),
        (("head=svm",), "model.label_smoothing", "head=svm is fitted"),
        (("head=svm",), "model.dropout", "head=svm is fitted"),
        (("head=mlp",), "head.C", "head=mlp does not read it"),
        ((), "model.batchnorm", "trains no block"),
        ((), "model.backbone_lr", "trains no block"),
        ((), "split.embargo", "does not read it"),
        ((), "split.fold", "does not read it"),
        (("split=kfold",), "split.test", "does not read it"),
        (("split=grouped",), "split.group_size", "does not read it"),
        (("split=csv", "split.file=x"), "split.val", "does not read it"),
        (("split=csv", "split.file=x"), "split.seed", "does not read it"),
        (("split=blocked", "split.folds=5"), "split.seed", "does not read it"),
        (("features=off",), "features.dtype", "features.bank=false"),
        (("model=cnn",), "features.engine", "leaves nothing frozen"),
        (("augment=none",), "augment.views", "all views are the same"),
    ],
)
def test_a_setting_without_effect_is_a_warning(
    overrides: tuple[str, ...], key: str, reason: str, tmp_path: Path
) -> None:
    (line,) = setting_warnings(config(tmp_path, *overrides), CATALOG, {key: f"{key}=1"})
    assert line.startswith(f"{key}=1 has no effect: ")
    assert reason in line


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((), "optimizer.lr"),
        (("head=svm",), "head.C"),
        (("model.unfreeze=1",), "model.batchnorm"),
        (("split=blocked",), "split.embargo"),
        (("split=blocked",), "split.seed"),
        (("split=kfold",), "split.seed"),
        (("split=grouped", "split.groups=blocks"), "split.group_size"),
        (("split=kfold",), "split.fold"),
        ((), "features.dtype"),
    ],
)
def test_a_setting_with_effect_is_no_warning(
    overrides: tuple[str, ...], key: str, tmp_path: Path
) -> None:
    cfg = config(tmp_path, *overrides)
    assert setting_warnings(cfg, CATALOG, {key: f"{key}=1"}) == []


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("model.unfreeze=1", "model.unfreeze_from=2"), "no block is trained in 2 epochs"),
        (("callbacks=[default,early_stopping]",), "training cannot stop early in 2 epochs"),
    ],
)
def test_a_setting_for_after_the_last_epoch_is_a_warning(
    overrides: tuple[str, ...], part: str, tmp_path: Path
) -> None:
    (line,) = setting_warnings(config(tmp_path, *overrides), CATALOG, {})
    assert part in line


def test_fitted_weights_have_no_moving_average(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.ema: head=svm is fitted"):
        config(tmp_path, "head=svm", "callbacks=[default,ema]")
    with pytest.raises(ConfigError, match="has no learning rate"):
        config(tmp_path, "head=svm", "lr_find=true")
