"""Fine-tuning: who learns how fast and when, the schedule, mixing, averaging, and drawing."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.data.loading import ViewSampler
from bcd.errors import BcdError, ConfigError
from bcd.inference.checkpoint import load_checkpoint
from bcd.models.classifier import SmearClassifier
from bcd.models.finetuning import Mixer, warmup_cosine
from bcd.models.network import SmearNetwork
from bcd.models.scores import log_losses
from bcd.training.lr_finder import HIGHEST, LOWEST, RangeTest
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, train_config

FROZEN = ("model=mobilenetv2", "model.weights=null", "model.input_size=48")
SHALLOW = ("model.unfreeze=1", "model.batchnorm=frozen")
LR = 0.01


def run(run_dir: Path, *overrides: str) -> TrainResult:
    root = run_dir.parent / "images"
    cfg = train_config(run_dir, *SMALL, f"data.root={root}", f"optimizer.lr={LR}", *overrides)
    result = train(cfg)
    assert result is not None
    return result


def fresh(run_dir: Path, *overrides: str) -> SmearClassifier:
    """The classifier before training."""
    pl.seed_everything(0, verbose=False)
    cfg = train_config(run_dir, *SMALL, *overrides)
    return SmearClassifier(cfg.model, 4)


def head_weight(network: SmearNetwork) -> Tensor:
    return network.head.get_parameter("weight").detach()


def rates(result: TrainResult, key: str = "lr") -> dict[str, float]:
    return {group["name"]: group[key] for group in result.trainer.optimizers[0].param_groups}


def test_each_block_has_its_share_of_the_learning_rate(tmp_path: Path) -> None:
    result = run(tmp_path / "run", *FROZEN, "model.unfreeze=3", "model.backbone_lr=0.1",
                 "model.depth_decay=0.5", "trainer.max_epochs=1")  # fmt: skip
    expected = {"head": LR, "block 18": 0.1 * LR, "block 17": 0.05 * LR, "block 16": 0.025 * LR}
    assert rates(result) == pytest.approx(expected)
    trained = sum(len(g["params"]) for g in result.trainer.optimizers[0].param_groups)
    wanted = [p for p in result.classifier.parameters() if p.requires_grad]
    assert trained == len(wanted)


@pytest.mark.parametrize("scheduler", ["onecycle", "warmup_cosine"])
def test_schedules_keep_the_shares(scheduler: str, tmp_path: Path) -> None:
    result = run(tmp_path / "run", f"scheduler={scheduler}", "model.backbone_lr=0.1",
                 "model.depth_decay=0.5")  # fmt: skip
    key = "max_lr" if scheduler == "onecycle" else "initial_lr"
    highest = [0.1 * LR * 0.5**depth for depth in range(4)]
    found = rates(result, key)
    assert list(found.values()) == pytest.approx([LR, *highest])
    now = rates(result)
    assert max(now.values()) < LR / 2  # on its way down
    assert now["block 2"] == pytest.approx(now["block 3"] / 2, rel=1e-6, abs=1e-12)


def test_the_schedule_rises_to_each_groups_rate_and_falls_to_nothing() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [w], "lr": lr} for w, lr in zip(weights, (1.0, 0.1), strict=True)]
    )
    scheduler = warmup_cosine(optimizer, 100, warmup=0.2)
    seen = []
    for _ in range(100):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    head = [lr for lr, _ in seen]
    assert head[:21] == sorted(head[:21]) and head[0] < 0.1
    assert head[20] == max(head) == pytest.approx(1)
    assert head[20:] == sorted(head[20:], reverse=True) and head[-1] < 0.01
    assert head[60] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)), abs=1e-6)
    assert [lr for _, lr in seen] == pytest.approx([0.1 * lr for lr in head])
    with pytest.raises(ConfigError, match=r"scheduler\.warmup=0\.95"):
        warmup_cosine(optimizer, 100, warmup=0.95)


def test_the_head_is_trained_alone_before_the_backbone(tmp_path: Path) -> None:
    settings = (
        *FROZEN,
        "model.unfreeze=2",
        "model.unfreeze_from=1",
        "callbacks.best.monitor=epoch",
        "callbacks.best.mode=max",
    )
    begun = fresh(tmp_path / "x", *settings).network
    first = run(tmp_path / "first", *settings, "trainer.max_epochs=1").classifier.network
    second = run(tmp_path / "second", *settings, "trainer.max_epochs=2").classifier.network
    assert not torch.equal(head_weight(first), head_weight(begun))
    before = dict(begun.trunk.named_parameters())
    assert all(torch.equal(before[n], p) for n, p in first.trunk.named_parameters())
    assert any(not torch.equal(before[n], p) for n, p in second.trunk.named_parameters())


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (6, 5, 7), (6, 9)])
def test_mixup_mixes_samples_and_labels_by_the_same_share(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, labels = torch.rand(shape), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed, shares = Mixer(with_defaults(AugmentConfig, mixup=1.0), 4)(x, labels)
    share = shares[0, 0]
    assert 0 < share < 1 and shares.shape == (6, 4)
    assert torch.allclose(mixed, share * x + (1 - share) * x.roll(1, 0), atol=1e-6)
    plain = nn.functional.one_hot(labels, 4).float()
    assert torch.allclose(shares, share * plain + (1 - share) * plain.roll(1, 0), atol=1e-6)


def test_cutmix_takes_a_rectangle_as_large_as_the_labels_share() -> None:
    torch.manual_seed(1)
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 16, 16)
    mixed, shares = Mixer(with_defaults(AugmentConfig, cutmix=1.0), 4)(x, torch.arange(4))
    foreign = (mixed != x).float().mean((1, 2, 3))
    assert 0 < foreign[0] < 1
    assert torch.allclose(1 - shares[range(4), range(4)], foreign)
    with pytest.raises(ConfigError, match=r"augment\.cutmix: .*model\.unfreeze=1"):
        Mixer(with_defaults(AugmentConfig, cutmix=1.0), 4)(torch.rand(4, 8), torch.arange(4))


def test_nothing_is_mixed_unasked() -> None:
    x, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    mixed, same = Mixer(with_defaults(AugmentConfig), 4)(x, labels)
    assert mixed is x and same is labels


def test_mixing_is_the_same_with_and_without_a_bank(tmp_path: Path) -> None:
    settings = ("model.unfreeze=0", "augment.mixup=0.4", "model.dropout=0.0")
    banked = head_weight(run(tmp_path / "bank", *settings).classifier.network)
    plain = head_weight(run(tmp_path / "plain", *settings, "features=off").classifier.network)
    unmixed = run(tmp_path / "unmixed", *settings, "augment.mixup=0.0").classifier.network
    assert (banked - plain).norm() < (banked - head_weight(unmixed)).norm() / 100


def test_labels_are_smoothed_in_training_alone() -> None:
    classifier = SmearClassifier(
        with_defaults(
            ModelConfig,
            backbone="cnn",
            weights=None,
            input_size=32,
            unfreeze="all",
            label_smoothing=0.1,
        ),
        4,
    )
    sure, labels = 40 * torch.eye(4), torch.arange(4)
    assert float(log_losses(sure, labels).mean()) == pytest.approx(0, abs=1e-6)
    # A tenth is spread over four classes: 3 / 40 of it lies 40 below.
    assert float(classifier.objective(sure, labels)) == pytest.approx(3, rel=1e-4)


def test_the_averaged_weights_are_what_is_saved_and_tested(tmp_path: Path) -> None:
    settings = (
        *FROZEN,
        "model.unfreeze=1",
        "callbacks.best.monitor=epoch",
        "callbacks.best.mode=max",
    )
    ema = "callbacks=[default,ema]"
    plain = run(tmp_path / "plain", *settings)
    run(tmp_path / "same", *settings, ema, "callbacks.ema.multi_avg_fn.decay=0.0")
    slow = run(tmp_path / "slow", *settings, ema, "callbacks.ema.multi_avg_fn.decay=0.9")

    kept = {
        name: load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt", True)[0].state_dict()
        for name in ("plain", "same", "slow")
    }
    frozen = plain.classifier.network.prefix.state_dict()
    for name, value in kept["plain"].items():
        assert torch.equal(value, kept["same"][name]), name  # the average of the last step alone
        if name.removeprefix("prefix.") in frozen:
            assert torch.equal(value, kept["slow"][name]), name
    assert not torch.equal(kept["slow"]["head.weight"], kept["plain"]["head.weight"])
    assert torch.equal(head_weight(slow.classifier.network), kept["slow"]["head.weight"])


def test_training_stops_early_where_val_gets_no_better(tmp_path: Path) -> None:
    result = run(tmp_path / "run", "callbacks=[default,early_stopping]", "optimizer.lr=1e-12",
                 "callbacks.early_stopping.patience=2", "trainer.max_epochs=9",
                 "model.batchnorm=frozen")  # fmt: skip
    assert len(result.classifier.history) == 3
    assert "<td>epochs</td><td>3, batches" in (tmp_path / "run" / "report.html").read_text()


def test_gradients_of_several_batches_make_one_step(tmp_path: Path) -> None:
    one = run(tmp_path / "one", "data.batch_size=8")
    two = run(tmp_path / "two", "data.batch_size=8", "trainer.accumulate_grad_batches=2")
    assert two.trainer.global_step == one.trainer.global_step // 2 > 0


def test_a_balanced_epoch_draws_each_class_equally_often() -> None:
    labels = [0] * 900 + [1] * 90 + [2] * 10
    sampler = ViewSampler(range(1000), 3, seed=0, labels=labels)
    sampler.set_epoch(4)
    keys = list(sampler)
    counts = Counter(labels[index] for index, _ in keys)
    assert len(keys) == 1000 and {view for _, view in keys} == {1}
    assert all(abs(count - 1000 / 3) < 60 for count in counts.values())  # four standard deviations
    assert keys == list(sampler)
    sampler.set_epoch(5)
    assert keys != list(sampler)


def test_the_rate_is_looked_for_where_the_loss_falls_fastest() -> None:
    test = RangeTest()
    steps = np.linspace(0, 1, 120)
    test.rates = list(LOWEST * (HIGHEST / LOWEST) ** steps)
    test.losses = list(1.4 - 1 / (1 + np.exp(-40 * (steps - 0.6))) + 5 * np.clip(steps - 0.9, 0, 1))
    assert math.log10(test.steepest()) == pytest.approx(-6 + 0.6 * 6, abs=0.2)
    test.losses = list(1.4 + steps)
    with pytest.raises(BcdError, match="did not decrease at any"):
        test.steepest()


def test_lr_find_draws_the_curve_and_makes_no_run(tmp_path: Path) -> None:
    cfg = train_config(tmp_path / "run", *SMALL, f"data.root={tmp_path}/in", "lr_find=true",
                       "model.backbone_lr=0.1")  # fmt: skip
    assert train(cfg) is None
    with (tmp_path / "run" / "learning_rate.csv").open() as stream:
        rows = [(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(stream)]
    assert rows[0][0] == LOWEST and 20 < len(rows) <= 120
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(rows))
    assert min(loss for _, loss in rows) < rows[0][1]
    assert (tmp_path / "run" / "figures" / "learning_rate.svg").is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()
