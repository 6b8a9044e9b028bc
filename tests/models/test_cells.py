"""Runs on white cells: pooling, and every command gives the answers of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.input_views import MOST_CELLS
from bcd.config.schema import ModelConfig
from bcd.data.cells.segmentation import find_cells
from bcd.errors import ConfigError
from bcd.evaluation.decision import OOD, UNDECIDED
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.models.backbones.build import build_backbone
from bcd.models.cells import CellHead, place_cells
from bcd.models.network import SmearNetwork
from bcd.training.run import TrainResult, train
from tests.helpers.harness import (
    SMALL,
    assert_same_figures,
    eval_config,
    predict_config,
    predicted,
    train_config,
)

POOLINGS = ("mean", "noisy_or", "attention")
COUNTS = (3, 1, 0, MOST_CELLS)


def head(pooling: str, **cfg: Any) -> CellHead:
    torch.manual_seed(0)
    return CellHead(5, 4, with_defaults(HeadConfig, **cfg), pooling, 0.0).eval()


def features() -> Tensor:
    torch.manual_seed(1)
    present = torch.arange(MOST_CELLS) < torch.tensor(COUNTS)[:, None]
    return place_cells(torch.randn(sum(COUNTS), 5), present)


def each(model: CellHead, x: Tensor) -> Tensor:
    """Probabilities of the cells of one image."""
    own = x[x[:, -1] > 0, :-1]
    return torch.softmax(model.head(own), 1)


def test_the_mean_of_the_probabilities_of_cells() -> None:
    model, x = head("mean"), features()
    found = torch.softmax(model(x), 1)
    for row in (0, 1, 3):
        torch.testing.assert_close(found[row], each(model, x[row]).mean(0))


def test_noisy_or_is_the_probability_of_any_cell() -> None:
    model, x = head("noisy_or"), features()
    found = torch.softmax(model(x), 1)
    for row in (0, 1, 3):
        any_cell = 1 - (1 - each(model, x[row])).prod(0)
        torch.testing.assert_close(found[row], any_cell / any_cell.sum(), rtol=1e-4, atol=1e-5)


def test_attention_weighs_features() -> None:
    model, x = head("attention"), features()
    found = model(x)
    for row in (0, 1, 3):
        own = x[row][x[row, :, -1] > 0, :-1]
        gate = torch.tanh(model.value(own)) * torch.sigmoid(model.gate(own))
        weights = torch.softmax(model.weight(gate)[:, 0], 0)
        torch.testing.assert_close(found[row], model.head(weights @ own))
    assert len(set(weights.tolist())) > 1


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_order_and_padding_do_not_matter_and_no_cell_is_no_answer(pooling: str, kind: str) -> None:
    model, x = head(pooling, kind=kind), features()
    found = model(x)
    assert torch.equal(found[2], torch.zeros(4))
    assert (found[[0, 1, 3]].std(1) > 1e-3).all()
    shuffled = x[:, torch.randperm(MOST_CELLS)]
    torch.testing.assert_close(model(shuffled), found)
    padded = x.clone()
    padded[..., :-1][x[..., -1] == 0] = 7.0
    torch.testing.assert_close(model(padded), found)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_are_finite_even_without_cells_and_for_sure_ones(pooling: str) -> None:
    model, x = head(pooling), features()
    x[..., :-1] *= 100  # probabilities of 0 and 1
    x.requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 3]))
    loss.backward()  # type: ignore[no-untyped-call]
    for tensor in (x, *model.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


def test_a_fitted_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a head that is trained"):
        head("mean", kind="svm")


SETTINGS = (
    *SMALL,
    "data.generate.size=112",
    "model.input_size=112",
    "model.unfreeze=0",
    "logger=none",
)


@pytest.fixture(scope="module", params=["mask", "cells mean", "cells attention"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("roi")
    roi, _, pooling = request.param.partition(" ")
    words = [*SETTINGS, f"data.root={folder}/images", f"data.roi={roi}"]
    if pooling:
        words.append(f"model.cell_pooling={pooling}")
    result = train(train_config(folder / "run", *words))
    assert result is not None
    return result


def test_eval_and_predict_give_the_answers_of_the_run(run: TrainResult, tmp_path: Path) -> None:
    ckpt = f"ckpt={run.run_dir}"
    again = evaluate_checkpoint(eval_config(tmp_path / "eval", ckpt, "data.num_workers=0"))["test"]
    assert_same_figures(again.metrics, run.metrics["test"])
    unbanked = eval_config(tmp_path / "images", ckpt, "data.num_workers=0", "features.bank=false")
    direct = evaluate_checkpoint(unbanked)["test"]
    root = run.run_dir.parent / "images"
    files = [str(root / p.path) for p in again.predictions]
    expected = np.array([p.probabilities for p in again.predictions])
    assert np.ptp(expected, axis=0).max() > 1e-3
    for workers in ("0", "1"):
        words = (f"input=[{','.join(files)}]", f"output={tmp_path}/a.csv", f"num_workers={workers}")
        asked = predicted(predict_config(tmp_path / "predict", ckpt, *words))
        np.testing.assert_allclose([p.probabilities for p in asked], expected, atol=1e-4)
        assert [p.refer for p in asked] == [p.refer for p in again.predictions]
    np.testing.assert_allclose([p.probabilities for p in direct.predictions], expected, atol=1e-4)


def test_out_of_distribution_detection_sees_the_whole_image(
    run: TrainResult, tmp_path: Path
) -> None:
    """An image whose cells are familiar, in a slide that is not."""
    root = run.run_dir.parent / "images"
    file = next(iter(sorted(root.rglob("*.png"))))
    image = cv2.imread(str(file))
    assert image is not None
    cells = find_cells(np.ascontiguousarray(image[:, :, ::-1])).mask
    element = np.ones((9, 9), np.uint8)
    beside: NDArray[np.bool_] = np.asarray(cv2.dilate(cells.astype(np.uint8), element) == 0)
    assert beside.mean() > 0.3
    noise = np.random.default_rng(0).integers(200, 256, image.shape)
    strange_image = np.where(beside[:, :, None], noise, image).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "strange.png"), strange_image)
    words = (f"ckpt={run.run_dir}", f"input=[{file},{tmp_path}/strange.png]", "num_workers=0")
    own, strange = predicted(predict_config(tmp_path / "out", *words))
    assert OOD not in own.refer
    assert OOD in strange.refer


def test_the_card_has_the_region(run: TrainResult) -> None:
    network, card = load_checkpoint(run.run_dir / "checkpoints" / "best.ckpt")
    assert card.roi in ("mask", "cells")
    assert card.config["model"]["roi"] == card.config["data"]["roi"] == card.roi
    assert card.sides == (112,)
    assert isinstance(network.head, CellHead) == (card.roi == "cells")


def test_an_image_without_white_cells_is_referred(run: TrainResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    empty = rng.normal(235, 2, (112, 112, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "empty.png"), empty)
    words = (f"ckpt={run.run_dir}", f"input={tmp_path}/empty.png", "num_workers=0")
    (found,) = predicted(predict_config(tmp_path / "out", *words))
    assert UNDECIDED in found.refer
    assert np.ptp(found.probabilities) < 1e-6


def test_a_masked_image_that_shows_nothing_has_no_answer_within_a_transformer() -> None:
    pytest.importorskip("timm")
    cfg = with_defaults(
        ModelConfig, backbone="test_vit", library="timm", weights=None, input_size=64, roi="mask",
        unfreeze=1,
    )  # fmt: skip
    network = SmearNetwork(build_backbone(cfg), 3, cfg).eval()
    x = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    x[1] = 230
    with torch.no_grad():
        tokens, found = network.prefix(x), network(x)
    assert tokens.ndim == 3 and len(tokens) == 3
    assert not tokens[1].any() and tokens[[0, 2]].any()
    assert np.ptp(found[1].numpy()) < 1e-6


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("data.roi=cells", "model.unfreeze=all"), "needs frozen features"),
        (("data.roi=cells", "head=knn"), "linear or mlp"),
        (("data.roi=cells", "model.views=[plain,grey]"), "a single view"),
        (("data.roi=cells", "augment.mixup=0.2"), "cannot be mixed"),
        (("data.roi=cell",), "did you mean 'cells'"),
        (("model.roi=mask",), "set data.roi=mask instead"),
        (("data.roi=cells", "model.cell_pooling=max"), "model.cell_pooling=max"),
    ],
)
def test_what_cannot_work_is_refused(words: tuple[str, ...], wanted: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=wanted):
        train_config(tmp_path, *SMALL, "model.unfreeze=0", *words)


@pytest.mark.parametrize(
    ("unfreeze", "views"),
    [(0, ["plain"]), (1, ["plain"]), ("all", ["plain"]), (0, ["plain", "grey"])],
)
def test_a_masked_image_that_shows_nothing_has_no_answer(
    unfreeze: int | str, views: list[str]
) -> None:
    cfg = with_defaults(
        ModelConfig, backbone="cnn", weights=None, input_size=64, roi="mask", unfreeze=unfreeze,
        views=views,
    )  # fmt: skip
    torch.manual_seed(0)
    network = SmearNetwork(build_backbone(cfg), 3, cfg, members=2).eval()
    x = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    x[1] = 230
    if len(views) > 1:
        x = x.permute(0, 2, 3, 1).flatten(1).repeat(1, 2)
    with torch.no_grad():
        for found in (network(x), network.outputs(x)[0], network.each(x).mean(0)):
            assert np.ptp(found[1].numpy()) < 1e-6
            assert (np.ptp(found[[0, 2]].numpy(), axis=1) > 1e-4).all()
