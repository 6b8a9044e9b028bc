"""Every shipped experiment and model runs through the real command line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.helpers.harness import CONF, script

TINY = (
    "trainer.accelerator=cpu",
    "data=generated",
    "data.generate.count=24",
    "data.generate.size=64",
    "data.generate.slides=3",
    "data.num_workers=0",
    "model.weights=null",
)
# Networks for which 64 pixels are too small.
WIDER = {"inception_v3": 75}
# Others run in torch: tests of the networks compare their exports, which take seconds each.
EXPORTED = ("mobilenetv2", "timm")


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiment_runs(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = [*TINY, "model.input_size=64", "+trainer.fast_dev_run=true"]
    chosen = [f"experiment={name}", f"data.root={tmp_path}/in", f"hydra.run.dir={run}"]
    done = script("train.py", *chosen, *small)
    assert done.returncode == 0, done.stderr
    assert (run / "metrics.json").is_file()
    assert f"{run}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", names("model"))
def test_a_model_is_trained_tested_evaluated_and_predicts(name: str, tmp_path: Path) -> None:
    run, again, table = tmp_path / "run", tmp_path / "again", tmp_path / "predictions.csv"
    size = f"model.input_size={WIDER.get(name, 64)}"
    short = ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "callbacks.last=null"]
    short += [] if name in EXPORTED else ["features.engine=torch"]
    train = ["train.py", f"model={name}", *TINY, size, *short, f"data.root={tmp_path}/in"]
    for words in (
        [*train, f"hydra.run.dir={run}"],
        ["eval.py", f"ckpt={run}", "data.num_workers=0", "device=cpu", f"run_dir={again}"],
        [
            "predict.py",
            f"ckpt={run}",
            f"input={tmp_path}/in/Pre-B",
            f"output={table}",
            "device=cpu",
        ],
    ):
        done = script(*words)
        assert done.returncode == 0, done.stderr
    reported, repeated = (
        json.loads((folder / "metrics.json").read_text())["test"] for folder in (run, again)
    )
    assert repeated["confusion"] == reported["confusion"]
    assert repeated["loss"] == pytest.approx(reported["loss"], rel=1e-4)
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 and all(row["prediction"] and not row["error"] for row in rows)


@pytest.mark.parametrize("file", [str(f.relative_to(CONF)) for f in sorted(CONF.rglob("*.yaml"))])
def test_every_key_has_a_comment(file: str) -> None:
    bare = []
    for line in (CONF / file).read_text().splitlines():
        is_key = re.match(r"\s*(- )?[\w./ ]+:( |$)", line) and not line.strip().startswith("#")
        opens = line.rstrip().endswith(":")
        if (
            is_key
            and not opens
            and "#" not in line
            and not re.match(r"\s*- (override )?/?\w+: ", line)
        ):
            bare.append(line)
    assert bare == []


@pytest.mark.parametrize("name", names("experiment"))
def test_the_head_of_an_experiment_says_what_to_expect(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    head = text.split("defaults:")[0]
    assert f"python train.py experiment={name}" in head
    for word in ("accuracy", "seeds", "time"):
        assert word in head.lower()
    assert OmegaConf.select(OmegaConf.create(text), "name") == name
