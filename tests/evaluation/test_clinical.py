"""Ranking metrics, probability metrics and clinical metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from bcd.evaluation.answers import softmax
from bcd.evaluation.metrics import clinical_metrics, compute_metrics

CLASSES = ("Benign", "Early", "Pre", "Pro")


@pytest.fixture
def case() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=300, p=(0.1, 0.2, 0.3, 0.4))
    logits = rng.normal(size=(300, 4))
    logits[np.arange(300), labels] += 1.2
    return softmax(logits), labels


def test_figures_of_ranking_and_probabilities_are_those_of_scikit_learn(case: Any) -> None:
    probabilities, labels = case
    given = compute_metrics(probabilities, labels, CLASSES, 0)
    truth = np.eye(4)[labels]
    auroc = sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert given["auroc"] == pytest.approx(auroc)
    assert given["average_precision"] == pytest.approx(
        sk.average_precision_score(truth, probabilities, average="macro")
    )
    assert given["auroc_by_class"]["Pre"] == pytest.approx(
        sk.roc_auc_score(labels == 2, probabilities[:, 2])
    )
    assert given["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, probabilities.argmax(axis=1)))
    assert given["loss"] == pytest.approx(sk.log_loss(labels, probabilities))
    assert given["brier"] == pytest.approx(((probabilities - truth) ** 2).sum() / len(labels))


def test_a_class_that_is_absent_or_the_only_one_has_no_area(case: Any) -> None:
    probabilities, labels = case
    some = compute_metrics(probabilities[labels > 1], labels[labels > 1], CLASSES, 0)
    assert some["auroc_by_class"]["Benign"] is None
    assert some["average_precision_by_class"]["Early"] is None
    known = [some["auroc_by_class"][name] for name in ("Pre", "Pro")]
    assert some["auroc"] == pytest.approx(np.mean(known))
    alone = compute_metrics(probabilities[labels == 1], labels[labels == 1], CLASSES, 0)
    assert alone["auroc"] is None and alone["average_precision"] is None
    assert alone["mcc"] == 0.0  # as in scikit-learn


def test_predictive_values_use_the_observed_prevalence_by_default(case: Any) -> None:
    probabilities, labels = case
    given = compute_metrics(probabilities, labels, CLASSES, 0)
    ill, predicted = labels != 0, probabilities.argmax(axis=1) != 0
    assert given["prevalence"] == pytest.approx(ill.mean())
    assert given["malignant_ppv"] == pytest.approx(sk.precision_score(ill, predicted))
    assert given["malignant_npv"] == pytest.approx(sk.precision_score(~ill, ~predicted))


def test_predictive_values_follow_the_prevalence() -> None:
    # 90 of 100 ill found, 80 of 100 others cleared.
    ill = np.repeat([True, False], 100)
    p = np.concatenate([np.repeat([0.9, 0.1], [90, 10]), np.repeat([0.9, 0.1], [20, 80])])
    given = clinical_metrics(ill, p >= 0.5, prevalence=0.01)
    assert given == {
        "malignant_sensitivity": pytest.approx(0.9),
        "malignant_specificity": pytest.approx(0.8),
        "malignant_ppv": pytest.approx(0.009 / (0.009 + 0.198)),
        "malignant_npv": pytest.approx(0.792 / (0.792 + 0.001)),
        "prevalence": 0.01,
    }
    nobody = clinical_metrics(ill, p >= 1.5)
    assert nobody["malignant_ppv"] is None and nobody["malignant_npv"] == pytest.approx(0.5)


@pytest.mark.parametrize("ill", [True, False])
def test_a_metric_is_none_if_no_image_defines_it(ill: bool) -> None:
    given = clinical_metrics(np.array([ill, ill]), np.array([True, False]), prevalence=0.2)
    known, unknown = ("sensitivity", "specificity") if ill else ("specificity", "sensitivity")
    assert given[f"malignant_{known}"] == 0.5
    assert given[f"malignant_{unknown}"] is None
    assert given["malignant_ppv"] is None and given["malignant_npv"] is None
