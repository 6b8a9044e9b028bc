"""Runs that end badly: what they say, their status, and what they leave."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from bcd.config.training import TrainConfig
from bcd.errors import BcdError, ConfigError
from bcd.inference.checkpoint import load_checkpoint
from bcd.models.classifier import SmearClassifier
from bcd.training.divergence import DivergenceCheck
from bcd.training.run import TrainResult, train
from bcd.training.warnings import loss_warnings
from tests.helpers.harness import SMALL, error_lines, script, train_config

FROZEN = ("model.unfreeze=0", "logger=none")
DIVERGING = ("optimizer=sgd", "optimizer.lr=3e38")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endings") / "images"


def config(images: Path, run_dir: Path, *overrides: str) -> TrainConfig:
    return train_config(run_dir, *SMALL, *FROZEN, f"data.root={images}", *overrides)


def run(images: Path, run_dir: Path, *overrides: str) -> TrainResult:
    result = train(config(images, run_dir, *overrides))
    assert result is not None
    return result


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoints/*"))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("augment.mixup=0.4",),
        ("trainer.accumulate_grad_batches=2", "data.batch_size=4"),
        ("head=mlp", "features=off"),
        ("callbacks=[default,ema]", "callbacks.progress=null"),
    ],
)
def test_a_diverged_run_ends_in_one_line_and_keeps_no_checkpoint(
    overrides: tuple[str, ...], images: Path, tmp_path: Path
) -> None:
    with pytest.raises(BcdError, match=r"training diverged in epoch \d+, step \d+") as caught:
        run(images, tmp_path / "run", *DIVERGING, *overrides)
    assert caught.value.status == 1
    line = str(caught.value)
    assert "learning rate 3e+38" in line
    assert "optimizer.lr" in line
    assert "no checkpoint is kept" in line
    assert checkpoints(tmp_path / "run") == []
    assert not (tmp_path / "run" / "metrics.json").exists()


def watched() -> tuple[DivergenceCheck, Any]:
    """The watch, and a trainer on another device than the CPU, where it looks seldom."""
    strategy = SimpleNamespace(reduce_boolean_decision=lambda found, all: found)
    trainer = SimpleNamespace(
        strategy=strategy, world_size=1, optimizers=[], checkpoint_callbacks=[], current_epoch=3,
        precision="32-true", global_step=0,
    )  # fmt: skip
    return DivergenceCheck(), trainer


def test_losses_looked_at_together_name_the_first_that_is_not_finite() -> None:
    watch, trainer = watched()
    module: Any = SimpleNamespace(device=torch.device("cuda"))
    for step, loss in enumerate((1.0, 2.0, float("inf"), float("nan"))):
        trainer.global_step = step
        watch.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)}, None, step)
    with pytest.raises(BcdError, match=r"in epoch 3, step 2: the loss is inf"):
        watch.on_validation_start(trainer, module)


def test_weights_that_are_not_finite_are_not_saved() -> None:
    watch, trainer = watched()
    state = {"count": torch.tensor(3), "network.head.weight": torch.ones(2, 2)}
    watch.on_save_checkpoint(trainer, Mock(), {"state_dict": state})
    state["network.head.weight"][1, 1] = float("inf")
    with pytest.raises(BcdError, match=r"network\.head\.weight is not finite"):
        watch.on_save_checkpoint(trainer, Mock(), {"state_dict": state})


def test_a_checkpoint_of_an_epoch_before_is_kept(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SmearClassifier.training_step

    def failing(self: SmearClassifier, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if self.current_epoch == 1 else loss

    monkeypatch.setattr(SmearClassifier, "training_step", failing)
    with pytest.raises(BcdError, match=r"epoch 1, .*nan.*checkpoints of earlier epochs are kept"):
        run(images, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == ["best.ckpt", "last.ckpt"]
    for name in ("best", "last"):
        file = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        network, card = load_checkpoint(file, uncalibrated=True)
        assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
        assert card.policy is None


@pytest.mark.parametrize("head", ["logreg", "knn"])
def test_a_fitted_head_on_features_that_are_not_finite_ends_in_one_line(
    head: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bcd.models.network import SmearNetwork

    embed = SmearNetwork.embed
    monkeypatch.setattr(SmearNetwork, "embed", lambda self, x: embed(self, x).fill_(float("nan")))
    with pytest.raises(BcdError, match="features of images are not finite"):
        run(images, tmp_path / "run", f"head={head}")
    assert checkpoints(tmp_path / "run") == []


def test_a_diverged_trial_is_a_failed_row_with_its_reason(images: Path, tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    from bcd.sweeps.trials import FAILED, read_trials, run_trial
    from tests.helpers.harness import CONF

    words = [*SMALL, *FROZEN, f"data.root={images}", *DIVERGING]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=x", *words])
    run_trial(cfg, tmp_path, "0", words)
    (trial,) = read_trials(tmp_path)
    assert trial.status == FAILED
    assert trial.reason.startswith("training diverged in epoch 0")
    assert not (tmp_path / "0" / "traceback.txt").exists()


def test_the_search_for_a_rate_may_lose_the_loss(images: Path, tmp_path: Path) -> None:
    words = ("lr_find=true", "optimizer=sgd", "model.backbone_lr=1", "scheduler=plateau")
    assert train(config(images, tmp_path / "run", *words, "augment.views=1")) is None
    assert (tmp_path / "run" / "learning_rate.csv").is_file()


def test_the_search_for_a_rate_sees_more_views_than_the_run_has_epochs(
    images: Path, tmp_path: Path
) -> None:
    cfg = config(images, tmp_path / "run", "lr_find=true", "trainer.max_epochs=2")
    assert cfg.augment.views > 2
    assert train(cfg) is None
    assert (tmp_path / "run" / "learning_rate.csv").is_file()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("trainer.max_epochs=0", r"trainer\.max_epochs=0: nothing would be trained"),
        ("trainer.max_epochs=-2", "set 1 or more, or -1 for no limit"),
        ("optimizer.lr=0", r"optimizer\.lr=0: nothing would be learnt"),
        ("trainer.check_val_every_n_epoch=3", "val is never evaluated in 2 epochs"),
    ],
)
def test_what_would_train_nothing_is_wrong_use(
    override: str, part: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=part):
        config(images, tmp_path / "run", override)


@pytest.mark.parametrize("setting", ["+trainer.limit_train_batches=0", "+trainer.max_steps=0"])
def test_a_run_without_a_batch_says_so(setting: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(BcdError, match="nothing was trained"):
        run(images, tmp_path / "run", setting)
    assert checkpoints(tmp_path / "run") == []


def test_a_loss_that_never_falls_is_told_and_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(images, tmp_path / "run", "optimizer=sgd", "optimizer.lr=1e-30", "model.dropout=0",
        "augment=none")  # fmt: skip
    said = capsys.readouterr().err
    assert "warning: the loss on train did not decrease" in said
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any("did not decrease" in line for line in info["warnings"])
    assert "the loss on train did not decrease" in (tmp_path / "run" / "report.html").read_text()
    assert "the loss on train did not decrease" in (tmp_path / "run" / "model_card.md").read_text()


def test_a_run_that_learns_is_not_warned_of(images: Path, tmp_path: Path) -> None:
    cfg = config(images, tmp_path / "run")
    falling = [{"train/loss": 1.2, "val/loss": 1.3}, {"train/loss": 1.3, "val/loss": 1.4}]
    falling += [{"train/loss": 1.1, "val/loss": 1.2}]
    assert loss_warnings(cfg, 4, falling) == []
    assert loss_warnings(cfg, 3, falling[1:2]) != []  # log 3 = 1.099


@pytest.mark.parametrize(
    ("overrides", "kept"), [(("callbacks.best=null", "callbacks.last=null"), 0), ((), 2)]
)
def test_every_path_and_command_that_is_printed_is_there(
    overrides: tuple[str, ...],
    kept: int,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    off = ["+trainer.enable_checkpointing=false"] if not kept else []
    folder = tmp_path / "a run"
    run(images, folder, *overrides, *off)
    said = capsys.readouterr().err
    assert len(checkpoints(folder)) == kept
    lines = [line for line in said.splitlines() if "ckpt=" in line]
    words = [word for line in lines for word in shlex.split(line)]  # as a shell reads them
    named = [word.removeprefix("ckpt=") for word in words if word.startswith("ckpt=")]
    assert len(named) == kept
    assert all(Path(name).is_file() for name in named)
    assert ("checkpoint: none was kept" in said) == (not kept)
    assert "tensorboard" not in said  # logger=none


def test_fast_dev_run_comes_to_an_end_and_says_what_it_is_worth(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(images, tmp_path / "run", "+trainer.fast_dev_run=true")
    said = capsys.readouterr().err
    assert "warning: trainer.fast_dev_run: only one batch is trained" in said
    assert "ckpt=" not in said
    assert checkpoints(tmp_path / "run") == []


def test_an_argument_of_a_named_class_needs_no_plus(images: Path, tmp_path: Path) -> None:
    words = [*SMALL, *FROZEN, f"data.root={images}", f"hydra.run.dir={tmp_path / 'run'}"]
    given = ["trainer.fast_dev_run=true", "optimizer.amsgrad=true", "callbacks.best.save_top_k=2"]
    done = script("train.py", *words, *given)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert all(line in written for line in ("fast_dev_run: true", "amsgrad: true", "save_top_k: 2"))
    wrong = script("train.py", *words, "optimizer.amsgard=true")
    assert wrong.returncode == 2
    (line,) = error_lines(wrong)
    assert "did you mean 'optimizer.amsgrad'" in line


def test_no_callback_hides_the_watch(images: Path, tmp_path: Path) -> None:
    result = run(images, tmp_path / "run", "trainer.max_epochs=1")
    order = [type(callback).__name__ for callback in result.trainer.callbacks]  # type: ignore[attr-defined]
    assert order.index("DivergenceCheck") < order.index("ModelCheckpoint")
