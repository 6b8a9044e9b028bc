"""Two checkpoints on the same images: the comparison, and the errors."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.programs import CompareConfig, CompareDataConfig
from bcd.data.splits.split import sha256_of
from bcd.data.synthetic.smears import generate
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.comparison import Comparison
from bcd.inference.compare import compare_checkpoints
from bcd.training.run import train
from tests.helpers.fields import cut, draw_large
from tests.helpers.harness import SMALL, error_lines, train_config, verb, warnings
from tests.helpers.noise import write_classes, write_image

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `a` and `b` on the same split of the same images, with inputs of other sizes."""
    folder = tmp_path_factory.mktemp("trained")
    settings = (*SMALL, "data.batch_size=4", f"data.root={folder / 'images'}",
                "data.group_pattern='(slide\\d+)'", "trainer.max_epochs=6")  # fmt: skip
    train(train_config(folder / "a", *settings))
    train(train_config(folder / "b", *settings, "seed=1", "model.input_size=40"))
    return folder


def compared(
    a: Path, b: Path, run_dir: Path, root: Path | None = None, **settings: Any
) -> Comparison:
    data = with_defaults(CompareDataConfig, root=None if root is None else str(root), num_workers=0)
    return compare_checkpoints(
        with_defaults(
            CompareConfig,
            ckpts=[str(a), str(b)],
            device="cpu",
            run_dir=str(run_dir),
            data=data,
            **settings,
        )
    )


def altered(trained: Path, run: str, file: Path, change: Change) -> Path:
    """A copy of a run's checkpoint with something else in it."""
    best = trained / run / "checkpoints" / "best.ckpt"
    content = torch.load(best, map_location="cpu", weights_only=True)
    change(content)
    torch.save(content, file)
    return file


def few(groups: int) -> str:
    """Two of all the ways in which the signs of groups can fall are the farthest from even."""
    return (
        f"warning: with {groups} groups, p cannot be below {2 / 2**groups:.3g}, however large "
        "the difference"
    )


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_command_line_repeats_the_reported_figures(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = verb("compare", f"ckpts=[{trained / 'a'},{trained / 'b'}]", "device=cpu",
                  f"hydra.run.dir={out}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    a, b = ({row["path"]: row for row in read(trained / n / "predictions.csv")} for n in "ab")
    assert a.keys() == b.keys()
    right = {n: {p for p, r in rows.items() if r["prediction"] == r["label"]}
             for n, rows in (("a", a), ("b", b))}  # fmt: skip
    differ = [path for path in a if a[path]["prediction"] != b[path]["prediction"]]
    assert differ  # else this test shows nothing
    found = json.loads((out / "comparison.json").read_text())
    assert found["n"] == len(a)
    assert found["n_groups"] == len({Path(path).name.split("-")[0] for path in a})
    gain = (len(right["b"]) - len(right["a"])) / len(a)
    assert found["differences"]["accuracy"]["value"] == pytest.approx(gain)
    f1s = [json.loads((trained / n / "metrics.json").read_text())["test"]["f1"] for n in "ab"]
    assert found["differences"]["f1"]["value"] == pytest.approx(f1s[1] - f1s[0])
    names = ["unsafe_malignant", "unsafe_benign", "accuracy"]
    assert list(found["differences"])[:3] == names
    for name, ill, called in zip(names, (True, False), ("false", "true"), strict=False):
        shares = []
        for model in (a, b):
            some = [row for row in model.values() if (row["label"] != "Benign") == ill]
            wrong = [row["malignant"] == called and row["refer"] == "false" for row in some]
            shares.append(sum(wrong) / len(some))
        given = found["differences"][name]
        assert given["value"] == pytest.approx(shares[1] - shares[0])
        assert given["low"] < given["value"] < given["high"]
    shown = done.stderr.index("unsafe, of malignant images"), done.stderr.index("accuracy")
    assert shown[0] < shown[1]
    assert found["correct"]["only a"] == len(right["a"] - right["b"])
    assert found["verdict"] in done.stderr
    rows = read(out / "disagreements.csv")
    assert {row["path"] for row in rows} == set(differ)
    for row in rows:
        path = row["path"]
        assert row["prediction_a"] == a[path]["prediction"]
        assert float(row["probability_b"]) == pytest.approx(float(b[path]["probability"]), abs=2e-6)
        assert row["group"] == Path(path).name.split("-")[0]
        winners = [name for name in "ab" if path in right[name]]
        assert row["correct"] == (winners[0] if winners else "neither")
    least = [min(float(row["probability_a"]), float(row["probability_b"])) for row in rows]
    assert least == sorted(least, reverse=True)
    assert (out / "figures" / "disagreements.png").is_file()
    assert warnings(done.stderr) == [few(4)]


def test_a_model_does_not_differ_from_itself_with_classes_in_another_order(
    trained: Path, tmp_path: Path
) -> None:
    order = [2, 0, 3, 1]

    def reorder(content: dict[str, Any]) -> None:
        card = content["card"]
        card["classes"] = [card["classes"][i] for i in order]
        card["benign"] = card["policy"]["benign"] = card["classes"].index("Benign")
        heads = [n for n, v in content["state_dict"].items() if "head" in n and len(v) == 4]
        assert len(heads) == 2
        for name in heads:
            content["state_dict"][name] = content["state_dict"][name][order]

    other = altered(trained, "a", tmp_path / "other.ckpt", reorder)
    for pair in ((trained / "a", other), (other, trained / "a")):
        found = compared(*pair, tmp_path / "out")
        unsafe = [found.differences.pop(name) for name in ("unsafe_malignant", "unsafe_benign")]
        assert all(d.value == 0 and 0 < d.high == -d.low < 1 for d in unsafe)
        assert set(found.differences.values()) == {(0.0, 0.0, 0.0)}
        assert found.metrics["a"]["f1"] == found.metrics["b"]["f1"] > 0
        assert found.metrics["a"]["malignant_ppv"] == found.metrics["b"]["malignant_ppv"]
        assert found.p_value == 1.0
        assert found.disagreements == [] == read(tmp_path / "out" / "disagreements.csv")
        assert found.verdict.startswith("not distinguishable")
        assert not (tmp_path / "out" / "figures").exists()


def test_only_common_test_images_are_compared(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def move_three(content: dict[str, Any]) -> None:
        split = content["card"]["split"]
        split["train"] += split["test"][:3]
        del split["test"][:3]

    whole = compared(trained / "a", trained / "b", tmp_path / "whole")
    other = altered(trained, "b", tmp_path / "other.ckpt", move_three)
    capsys.readouterr()
    part = compared(trained / "a", other, tmp_path / "out")
    n = whole.metrics["a"]["n"]
    assert part.metrics["a"]["n"] == part.metrics["b"]["n"] == n - 3
    told = capsys.readouterr().err
    assert f"{n - 3} images are in the test sets of both checkpoints (a {n}, b {n - 3})" in told
    assert warnings(told) == [few(4)]
    assert sum(part.correct.values()) == n - 3


def test_the_error_without_common_images_names_the_options(trained: Path, tmp_path: Path) -> None:
    def forget(content: dict[str, Any]) -> None:
        content["card"]["split"]["test"] = ["0" * 64]

    other = altered(trained, "b", tmp_path / "other.ckpt", forget)
    with pytest.raises(BcdError, match=r"no image is in the test sets of both.*data\.root="):
        compared(trained / "a", other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_moved_images_are_found_by_their_content(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(trained / "images", tmp_path / "copy")
    found = compared(trained / "a", trained / "b", tmp_path / "out", copy, subset="test")
    expected = compared(trained / "a", trained / "b", tmp_path / "again")
    assert found.differences == expected.differences
    assert warnings(capsys.readouterr().err) == [few(4)] * 2
    elsewhere = write_classes(tmp_path / "in", {"Benign": 2, "Pro": 2})
    with pytest.raises(BcdError, match=r"none of the .* is in .*subset=test"):
        compared(trained / "a", trained / "b", tmp_path / "out", elsewhere, subset="test")


def test_all_of_another_folder_is_compared_with_a_warning_about_training_images(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def forget(content: dict[str, Any]) -> None:
        content["card"]["split"] |= {"train": [], "val": []}

    generate(tmp_path / "new", count=20, slides=2, size=48, seed=5)
    found = compared(trained / "a", trained / "b", tmp_path / "out", tmp_path / "new")
    assert found.metrics["a"]["n"] == 20
    assert found.n_groups == 2
    assert warnings(capsys.readouterr().err) == [few(2)]
    other = altered(trained, "b", tmp_path / "other.ckpt", forget)
    found = compared(trained / "a", other, tmp_path / "out", trained / "images")
    n = found.metrics["a"]["n"]
    assert n == 48
    seen = n - len(read(trained / "a" / "predictions.csv"))
    told = capsys.readouterr().err
    assert f"warning: a was trained or chosen on {seen} of {n} images" in told
    assert "warning: b" not in told


def test_groups_that_the_runs_recorded_are_joined(trained: Path, tmp_path: Path) -> None:
    card = torch.load(trained / "a/checkpoints/best.ckpt", weights_only=True)["card"]
    test = sorted(map(sha256_of, card["split"]["test"]))

    def grouped(*parts: list[str]) -> Change:
        def change(content: dict[str, Any]) -> None:
            named = {sha: f"part {k}" for k, part in enumerate(parts) for sha in part}
            content["card"]["groups"] = named
            content["card"]["config"]["data"]["group_pattern"] = None

        return change

    a = altered(trained, "a", tmp_path / "a.ckpt", grouped(test[:3], test[3:5]))
    b = altered(trained, "b", tmp_path / "b.ckpt", grouped(test[5:7], test[2:4]))
    found = compared(a, b, tmp_path / "out")
    assert found.n_groups == len(test) - 5  # 0 to 4 by way of 2 and 3, 5 and 6
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert told["test"] == "sign-flip test over groups"
    plain = [altered(trained, n, tmp_path / f"plain-{n}.ckpt", grouped()) for n in "ab"]
    alone = compared(plain[0], plain[1], tmp_path / "alone")
    assert alone.n_groups is None


def test_images_of_another_folder_that_overlap_are_one_group(trained: Path, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "other", {"Benign": 2, "Early Pre-B": 2, "Pre-B": 2})
    field = cut(draw_large(1), np.asarray([200.0, 256.0]), 0.0).pixels
    beside = cut(draw_large(1), np.asarray([260.0, 256.0]), 0.0).pixels
    write_image(root / "Benign" / "field.png", field)
    write_image(root / "Benign" / "beside.png", beside)
    found = compared(trained / "a", trained / "b", tmp_path / "out", root)
    assert (found.metrics["a"]["n"], found.metrics["a"]["n_groups"], found.n_groups) == (8, 7, 7)


def test_other_classes_are_an_error_in_one_line(trained: Path, tmp_path: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["card"]["classes"][0] = "Healthy"

    other = altered(trained, "b", tmp_path / "other.ckpt", rename)
    done = verb("compare", f"ckpts=[{trained / 'a'},{other}]",
                  f"hydra.run.dir={tmp_path / 'out'}")  # fmt: skip
    (line,) = error_lines(done)
    assert done.returncode == 1
    assert "a has the classes Benign" in line and "b has Healthy" in line and "same classes" in line
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_compared_with_itself(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(BcdError, match=r"ckpts: both are .*best.ckpt: give two different"):
        compared(trained / "a", trained / "a" / "checkpoints", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"ckpts": ["a"]}, "ckpts=['a']: give two"),
        ({"ckpts": ["a", "b"], "subset": "val"}, "subset=val: choose test or all"),
        (
            {"ckpts": ["a", "b"], "data": with_defaults(CompareDataConfig, batch_size=0)},
            "data.batch_size=0",
        ),
    ],
)
def test_wrong_values_are_named(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_defaults(CompareConfig, **settings)
    assert part in str(caught.value)


def test_checkpoints_are_required(tmp_path: Path) -> None:
    done = verb("compare", f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert error_lines(done) == ["error: ckpts is missing: give ckpts=…"]
