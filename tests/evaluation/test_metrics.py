"""Metrics compared with scikit-learn and torchmetrics, on typical and unusual predictions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as sk
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError
from bcd.evaluation.answers import softmax
from bcd.evaluation.collect import choose_device, collect_answers
from bcd.evaluation.metrics import HEADLINE_METRICS, compute_metrics, confusion
from bcd.models.backbones.build import Backbone
from bcd.models.network import SmearNetwork
from bcd.models.scores import epoch_scores
from bcd.reporting.results import absent_classes_note

CLASSES = ("Benign", "Early Pre-B", "Pre-B", "Pro-B")

Case = tuple[NDArray[np.float64], NDArray[np.int64]]


def drawn(seed: int, n: int, shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)) -> Case:
    """Logits that are often correct, and labels with some classes rarer than others."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(CLASSES), size=n, p=shares).astype(np.int64)
    logits = rng.normal(size=(n, len(CLASSES)))
    logits[np.arange(n), labels] += 1.2
    return logits, labels


def certain(labels: list[int], predictions: list[int]) -> Case:
    return np.eye(len(CLASSES))[predictions] * 5.0, np.array(labels, dtype=np.int64)


CASES: dict[str, Case] = {
    "unequal": drawn(0, 500),
    "few": drawn(1, 7),
    "a class is absent": drawn(2, 60, (0.5, 0.0, 0.3, 0.2)),
    "two classes are absent": drawn(3, 40, (0.0, 0.0, 0.5, 0.5)),
    "one class only": drawn(4, 30, (0.0, 0.0, 1.0, 0.0)),
    "never predicted": certain([0, 1, 2, 3, 3, 2, 0], [0, 1, 1, 3, 1, 0, 0]),
    "absent and never predicted": certain([0, 1, 1, 0], [0, 0, 1, 0]),
    "perfect": certain([0, 1, 2, 3, 3], [0, 1, 2, 3, 3]),
    "all wrong": certain([0, 1, 2, 3, 3], [1, 2, 3, 0, 0]),
    "one, right": certain([2], [2]),
    "one, wrong": certain([0], [3]),
    "benign only": certain([0, 0, 0], [0, 2, 0]),
    "malignant only": certain([1, 2, 3], [0, 2, 1]),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def computed(case: Case, benign: int | None = 0) -> dict[str, Any]:
    return compute_metrics(softmax(case[0]), case[1], CLASSES, benign)


def by_class(values: NDArray[np.float64]) -> Any:
    known = [None if value != value else value for value in values.tolist()]
    return pytest.approx(dict(zip(CLASSES, known, strict=True)))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_headline_figures_are_those_of_scikit_learn(case: Case) -> None:
    given, labels = computed(case), case[1]
    predictions = case[0].argmax(axis=1)
    # Over the classes that occur; scikit-learn alone would count those that are predicted too.
    macro: dict[str, Any] = {"average": "macro", "zero_division": 0, "labels": np.unique(labels)}
    assert given["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    balanced = sk.balanced_accuracy_score(labels, predictions)
    assert given["balanced_accuracy"] == pytest.approx(balanced)
    assert given["precision"] == pytest.approx(sk.precision_score(labels, predictions, **macro))
    assert given["recall"] == pytest.approx(sk.recall_score(labels, predictions, **macro))
    assert given["f1"] == pytest.approx(sk.f1_score(labels, predictions, **macro))
    assert given["n"] == len(labels)


def test_figures_of_each_class_are_those_of_scikit_learn(case: Case) -> None:
    given, labels = computed(case), case[1]
    predictions = case[0].argmax(axis=1)
    every: dict[str, Any] = {"labels": range(4), "average": None, "zero_division": np.nan}
    assert given["sensitivity_by_class"] == by_class(sk.recall_score(labels, predictions, **every))
    precision = sk.precision_score(labels, predictions, **every)
    precision[np.bincount(labels, minlength=4) == 0] = np.nan  # a class without images has none
    assert given["precision_by_class"] == by_class(precision)
    specificity = [
        sk.recall_score(labels != k, predictions != k, zero_division=np.nan) for k in range(4)
    ]
    assert given["specificity_by_class"] == by_class(np.array(specificity))
    matrix = sk.confusion_matrix(labels, predictions, labels=range(4))
    assert given["confusion"] == matrix.tolist()
    assert given["n_by_class"] == dict(zip(CLASSES, matrix.sum(axis=1).tolist(), strict=True))


@pytest.mark.parametrize("benign", [0, 2])
def test_the_clinical_pair_is_that_of_scikit_learn(case: Case, benign: int) -> None:
    given, ill = computed(case, benign), case[1] != benign
    called_ill = case[0].argmax(axis=1) != benign
    for name, positive in (("malignant_sensitivity", True), ("malignant_specificity", False)):
        if (ill == positive).any():
            expected = sk.recall_score(ill, called_ill, pos_label=positive)
            assert given[name] == pytest.approx(expected)
        else:
            assert given[name] is None


def test_without_a_benign_class_there_is_no_clinical_pair() -> None:
    figures = computed(CASES["unequal"], benign=None)
    assert not any(name.startswith("malignant") for name in figures)
    assert figures.keys() < computed(CASES["unequal"], benign=0).keys()


def test_a_class_without_images_is_left_out_rather_than_wrong() -> None:
    labels, predictions = [0, 0, 1, 1], [0, 3, 1, 1]
    given = computed(certain(labels, predictions))
    assert given["sensitivity_by_class"] == {
        "Benign": 0.5, "Early Pre-B": 1.0, "Pre-B": None, "Pro-B": None
    }  # fmt: skip
    assert given["precision_by_class"]["Pro-B"] is None  # predicted, but there is none
    assert given["recall"] == given["balanced_accuracy"] == pytest.approx(0.75)
    assert given["precision"] == pytest.approx(1.0)
    never = computed(certain([0, 0, 1, 1], [0, 0, 0, 0]))
    assert never["precision_by_class"]["Early Pre-B"] is None
    assert never["precision"] == pytest.approx((0.5 + 0) / 2)
    assert never["malignant_ppv"] is None and never["malignant_npv"] == pytest.approx(0.5)
    assert "no images of Pre-B, Pro-B: macro averages are over the other 2" in absent_classes_note(
        given
    )
    assert absent_classes_note(computed(CASES["perfect"])) == ""


ALL_THERE = [name for name, case in CASES.items() if len(set(case[1].tolist())) == len(CLASSES)]


@pytest.mark.parametrize("case", [CASES[name] for name in ALL_THERE], ids=ALL_THERE)
def test_training_logs_the_figures_that_the_evaluation_reports(case: Case) -> None:
    given = computed(case)
    scores = epoch_scores(len(CLASSES))
    for at in range(0, len(case[1]), 3):  # batches, of which the last is smaller
        scores.update(torch.tensor(case[0][at : at + 3]), torch.tensor(case[1][at : at + 3]))
    logged = {name: float(value) for name, value in scores.compute().items()}
    assert logged == pytest.approx({name: given[name] for name in HEADLINE_METRICS}, abs=1e-6)


def test_the_loss_is_cross_entropy(case: Case) -> None:
    expected = nn.functional.cross_entropy(torch.tensor(case[0]), torch.tensor(case[1]))
    assert computed(case)["loss"] == pytest.approx(float(expected))


def test_the_loss_is_finite_for_a_confident_error() -> None:
    given = compute_metrics(np.eye(4)[[1]], np.array([0]), CLASSES, 0)
    assert 10 < given["loss"] < float("inf")


def test_figures_are_plain_data_without_nan(case: Case) -> None:
    given = computed(case)
    assert json.loads(json.dumps(given, allow_nan=False)) == given


def test_the_confusion_matrix_has_one_row_per_true_class() -> None:
    labels, predictions = np.array([0, 0, 2]), np.array([1, 1, 0])
    assert confusion(labels, predictions, 3)[0, 1] == 2
    assert confusion(labels, predictions, 3)[2, 0] == 1


def test_softmax_equals_that_of_torch_for_any_logits() -> None:
    rng = np.random.default_rng(0)
    for scale in (1.0, 50.0, 1e4):
        logits = (rng.normal(size=(20, 4)) * scale).astype(np.float32)
        given = softmax(logits)
        expected = torch.tensor(logits, dtype=torch.float64).softmax(dim=1).numpy()
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(given.sum(axis=1), 1.0, rtol=1e-12)


def test_logits_are_gathered_in_order_from_a_network_in_eval_mode() -> None:
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(11)
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=None, dropout=0.5, unfreeze="all")
    network = SmearNetwork(Backbone(nn.Sequential(nn.Conv2d(3, 5, 1)), 5), 4, cfg).train()
    x = x.view(11, 3, 1, 1)
    loader = DataLoader(TensorDataset(x, labels), batch_size=4)
    descriptors = np.zeros((11, 2), np.float32)
    answers = collect_answers(network, loader, torch.device("cpu"), descriptors)
    with torch.no_grad():
        logits = network.eval().head(network.embed(x))
    assert answers.descriptors is descriptors
    np.testing.assert_allclose(answers.logits, logits.numpy(), rtol=1e-5, atol=1e-6)
    assert answers.labels.tolist() == labels.tolist()


def test_an_unavailable_device_is_an_error_that_suggests_another() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("cuda:77", "abacus"):
        with pytest.raises(BcdError, match=f"device={name}.*device=cpu"):
            choose_device(name)
