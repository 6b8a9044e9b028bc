"""The report and the model card of a run.

The order follows checklists for clinical prediction and imaging models (CLAIM,
TRIPOD+AI, STARD-AI): use, data flow, separation, model, results, shortcuts, calibration, threshold,
abstention, corruption, failures, limits.
"""

from __future__ import annotations

from pathlib import Path

from bcd.audit.checks import NOT_ESTABLISHED
from bcd.audit.page import checks_table
from bcd.audit.pairs import PAIRS_FIGURE
from bcd.audit.shortcuts import shortcut_lines
from bcd.data.splits.split import SUBSETS
from bcd.evaluation.metrics import MORE_METRICS
from bcd.reporting.document import Block, Figure, Section, Table, write_html, write_markdown
from bcd.reporting.guarantees import (
    prior_correction_line,
    referral_rules,
    sets_guarantee,
    threshold_guarantee,
    unsafe_line,
    val_reuse_note,
)
from bcd.reporting.results import calibration_line, few_groups_warning, metric_rows, metric_text
from bcd.reporting.robustness import robustness_cells
from bcd.training.facts import Facts
from bcd.training.overview import overview
from bcd.training.provenance import how_chosen, how_split, val_chose_epoch


def write_report(folder: Path, facts: Facts) -> None:
    """Writes `report.html` and `model_card.md` of a run whose figures are in `folder/figures`."""
    sections = [
        *_warnings(facts), _use(facts), _data(facts), _separation(facts), _model(facts),
        _results(facts), _shortcuts(facts), _calibration(facts), *_threshold(facts),
        _abstention(facts), _corruption(facts), _failures(facts), *facts.more, _limits(facts),
    ]  # fmt: skip
    write_html(folder / "report.html", facts.cfg.name, sections, overview(folder, facts))
    write_markdown(folder / "model_card.md", f"Model card: {facts.cfg.name}", sections)


def _warnings(facts: Facts) -> list[Section]:
    return [Section("Warnings", list(facts.warnings))] if facts.warnings else []


def _use(facts: Facts) -> Section:
    classes = ", ".join(facts.catalog.classes)
    return Section(
        "Intended use",
        [
            f"Classifies microscope images as {classes}. For research and teaching only. It is not "
            "a medical device and must not be used for diagnosis.",
            "It assigns each image to one of these classes or refers it to a person. It cannot "
            "recognize other findings.",
        ],
    )


def _data(facts: Facts) -> Section:
    catalog, split = facts.catalog, facts.split
    out = split.subsets.count("excluded")
    used = len(catalog.images) - out
    found = len(catalog.images) + len(catalog.rejected)
    flow = (
        f"{found} files found; {len(catalog.rejected)} rejected; {out} left out by the split; "
        f"{used} used. Source: {catalog.root}, fingerprint {catalog.fingerprint()[:16]} "
        f"({catalog.checked})."
    )
    labels = catalog.labels
    rows = [
        [name, *(str(sum(labels[i] == k for i in split.indices(s))) for s in SUBSETS)]
        for k, name in enumerate(catalog.classes)
    ]
    blocks: list[Block] = [flow, Table(["class", *SUBSETS], rows)]
    if catalog.rejected:
        reasons = [[r.path, r.class_name, r.reason] for r in catalog.rejected]
        blocks.append(Table(["file", "class", "rejected because"], reasons, numeric=False))
    return Section("Data flow", blocks)


def _separation(facts: Facts) -> Section:
    separation = [check for check in facts.checks if not check.name.startswith("shortcut")]
    test = facts.test
    leaks = (
        f"{test['leaked']} of {test['n']} test images overlap one in train or val "
        f"({test['leaked_train']} in train, {test['leaked_val']} in val); "
        f"accuracy {metric_text(test, 'accuracy')} with them, "
        f"{metric_text(test, 'accuracy_without_leaked') or 'nothing left'} without."
    )
    return Section(
        "Separation and leaks",
        [
            f"{how_split(facts.cfg.split)}. {leaks}",
            checks_table(separation),
            Figure(PAIRS_FIGURE, "overlapping pairs across train, val and test"),
        ],
    )


def _model(facts: Facts) -> Section:
    cfg, views = facts.cfg, facts.cfg.augment.views
    epochs = f"{facts.epochs}, batches of {cfg.data.batch_size}"
    if cfg.head.fitted:
        epochs = "none: the head is fitted once, on all views"
    else:
        views = min(views, facts.epochs)
    optimizer = str(cfg.optimizer.get("_target_", "")).rpartition(".")[2]
    blocks = cfg.model.unfreeze if cfg.model.unfreeze_from < facts.epochs else 0
    trained = f"the head and {blocks} blocks" if blocks else "the head"
    optimized = f"{optimizer}, learning rate {cfg.optimizer.get('lr')}"
    rows = [
        ["backbone", f"{cfg.model.title}, weights {cfg.model.weights}"],
        ["head", cfg.head.kind],
        ["trained", trained],
        ["images", cfg.model.images],
        ["optimizer", "none: scikit-learn fits the head" if cfg.head.fitted else optimized],
        ["epochs", epochs],
        ["views", f"{views} of each image, {len(cfg.augment.transforms)} transforms"],
        ["seed", f"{cfg.seed} (training; the split has its own)"],
    ]
    recorded = "config.yaml and run.json record all settings, versions and the command."
    chosen = f"{how_chosen(cfg)} {facts.tested} {recorded}"
    return Section(
        "Model",
        [Table(["", ""], rows, numeric=False), chosen, Figure("curves", "loss and accuracy")],
    )


def _results(facts: Facts) -> Section:
    test, groups = facts.test, facts.test["n_groups"]
    low, high = test["accuracy_ci_wilson_iid"]
    over = "images, because no groups are known and no images overlap"
    if groups is not None:
        over = f"{groups} groups, joined where images overlap"
    intervals = (
        f"{unsafe_line(test)} Brackets show 95 % intervals by a cluster bootstrap over {over}. If "
        f"images were independent, Wilson's interval of the accuracy would be [{low:.3f}, "
        f"{high:.3f}]. Precision, recall and F1 are macro averages. {few_groups_warning(test)}"
    )
    rows = []
    for name in facts.catalog.classes:
        cells = [str(test["n_by_class"][name])]
        for figure in ("sensitivity", "specificity", "precision", "auroc"):
            value = test[f"{figure}_by_class"][name]
            interval = test[f"{figure}_by_class_ci"][name]
            pair = {"x": value, "x_ci": interval}
            cells.append(metric_text(pair, "x") or "undefined")
        rows.append([name, *cells])
    return Section(
        "Results",
        [
            Table(["metric", *facts.results], metric_rows(facts.results)),
            intervals.strip(),
            Figure("intervals", "metrics and sensitivities on test with 95 % intervals"),
            Figure("precision_recall", "precision over recall of each class on test"),
            Figure("roc", "ROC curve of each class on test"),
            Figure("group_errors", "errors by slide on test"),
            Table(["class", "n", "sensitivity", "specificity", "precision", "AUROC"], rows),
            Table(
                ["metric, test", "value"],
                [[name.replace("_", " "), metric_text(test, name)] for name in MORE_METRICS],
            ),
        ],
    )


def _shortcuts(facts: Facts) -> Section:
    name = "balanced_accuracy"
    reached = (facts.test[name], metric_text(facts.test, name))
    more = "bcd audit checks more sources, and compares with another split."
    return Section("Shortcuts", [*shortcut_lines(facts.checks, *reached), more])


def _calibration(facts: Facts) -> Section:
    test = facts.test
    text = (
        f"Temperature {facts.policy.temperature:.3f}, fitted on val (n = "
        f"{facts.results['val'].metrics['n']}). {calibration_line(test)} Negative log-likelihood "
        f"{test['loss_uncalibrated']:.4f} before, {metric_text(test, 'loss')} after."
    )
    text += f" {prior_correction_line(facts.policy, facts.catalog.classes, test)}".rstrip()
    return Section("Calibration", [text, Figure("reliability", "reliability on test")])


def _threshold(facts: Facts) -> list[Section]:
    test = facts.test
    if "at_threshold" not in test:
        return []
    at = test["at_threshold"]
    names = ("sensitivity", "specificity", "ppv", "npv")
    rows = [
        ["most probable class", *(metric_text(test, f"malignant_{name}") for name in names)],
        [
            f"malignant from probability {at['threshold']:.4g}",
            *(metric_text(at, f"malignant_{name}") for name in names),
        ],
    ]
    text = (
        "The threshold decides which images predictions.csv marks as malignant. Where the most "
        "probable class disagrees, the image is referred. Predictive values assume that "
        f"{at['prevalence']:.1%} of images are malignant."
    )
    header = ["malignant against benign", "sensitivity", "specificity", "PPV", "NPV"]
    promise, chosen = threshold_guarantee(facts.policy), val_reuse_note(val_chose_epoch(facts.cfg))
    chart = Figure("scores", "probability of malignancy on test, and the threshold")
    return [Section("Threshold", [Table(header, rows), text, promise, chosen, chart])]


def _abstention(facts: Facts) -> Section:
    test, policy = facts.test, facts.policy
    reasons = ", ".join(f"{n} {name}" for name, n in test["referral_reasons"].items()) or "none"
    decided = metric_text(test, "accuracy_decided") or "nothing decided"
    sets = test["prediction_sets"]
    rows = [[f"{float(c):.0%}", f"{v:.4f}"] for c, v in test["selective_accuracy"].items()]
    return Section(
        "Abstention and referral",
        [
            f"{test['referred']:.1%} of {test['n']} images are referred to a person ({reasons}). "
            f"Accuracy on the other {1 - test['referred']:.1%}: {decided}. "
            f"{referral_rules(policy)}",
            f"Prediction sets on test: {sets['coverage']:.1%} contain the true class. They have "
            f"{sets['mean_size']:.2f} classes on average. {sets_guarantee(policy)}",
            Table(["share decided, most confident first", "accuracy"], rows),
            Figure("risk_coverage", "error rate against the share decided"),
        ],
    )


def _corruption(facts: Facts) -> Section:
    n = facts.corruptions[0]["n"]
    return Section(
        "Corruption",
        [
            f"{n} of the test images, changed as other stains, cameras and files would:",
            Table(*robustness_cells(facts.corruptions, intervals=True)),
            "The whole suite: bcd eval ckpt=<this run> corruptions=standard",
        ],
    )


def _failures(facts: Facts) -> Section:
    matrix = Figure("confusion_matrix", "confusion matrix")
    return Section("Failures", [matrix, *facts.examples])


def _limits(facts: Facts) -> Section:
    separated = not any(NOT_ESTABLISHED in check.finding for check in facts.checks)
    blocks: list[Block] = [
        "The figures apply to images like these: from the same laboratories, microscopes and "
        "stains, selected in the same way. Elsewhere expect lower ones; see Corruption.",
    ]
    if not separated:
        blocks.append(
            f"{NOT_ESTABLISHED.capitalize()}. Images of one patient may be in both train and test, "
            "so the figures may be too optimistic for new patients."
        )
    return Section("Limits", blocks)
