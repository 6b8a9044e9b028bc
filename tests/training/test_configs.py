"""Every shipped experiment runs through the real command line, and every model can be trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torchvision.models import vision_transformer

from bcd.inference.evaluate import evaluate_checkpoint
from bcd.training.run import train
from tests.helpers.choosing import LARGE, exhaustive_if
from tests.helpers.harness import (
    CONF,
    eval_config,
    predict_config,
    predicted,
    script,
    train_config,
)

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
# Their features, exports and explanations are tested too, and training takes them as any other.
RESEMBLING = ("alexnet", "efficientnet_b0", "hybrid")
# Others run in torch: tests of the networks compare their exports, which take seconds each.
EXPORTED = ("mobilenetv2", "timm")


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",  # for release there is tests/release
    exhaustive_if("frozen_views".__eq__, sorted({*names("experiment")} - {"release"})),
)
def test_an_experiment_runs(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = [*TINY, "model.input_size=64", "+trainer.fast_dev_run=true"]
    small += ["augment.views=2"]
    chosen = [f"experiment={name}", f"data.root={tmp_path}/in", f"hydra.run.dir={run}"]
    done = script("train.py", *chosen, *small)
    assert done.returncode == 0, done.stderr
    assert (run / "metrics.json").is_file()
    assert f"{run}" in done.stderr


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the first run generates the images that all of them use."""
    return tmp_path_factory.mktemp("smears")


@pytest.fixture
def _few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes transformers of two blocks, not twelve equal ones; tests of the zoo have all."""
    made = vision_transformer._vision_transformer

    def make(**settings: Any) -> Any:
        return made(**{**settings, "num_layers": 2})

    monkeypatch.setattr(vision_transformer, "_vision_transformer", make)


@pytest.mark.slow
@pytest.mark.usefixtures("_few_blocks")
@pytest.mark.parametrize("name", exhaustive_if((*LARGE, *RESEMBLING).__contains__, names("model")))
def test_a_model_is_trained_tested_evaluated_and_predicts(
    name: str, smears: Path, tmp_path: Path
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    short = ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "callbacks.last=null"]
    short += ["callbacks.progress=null", "+trainer.enable_progress_bar=false"]
    short += [] if name in EXPORTED else ["features.engine=torch"]
    size = f"model.input_size={WIDER.get(name, 64)}"
    given = [f"data.root={smears}", f"model={name}", *TINY, size, *short]
    trained = train(train_config(run, *given))
    assert trained is not None
    ckpt, device = f"ckpt={run}", "device=cpu"
    evaluated = evaluate_checkpoint(eval_config(again, ckpt, "data.num_workers=0", device))
    reported, repeated = trained.metrics["test"], evaluated["test"].metrics
    assert repeated["confusion"] == reported["confusion"]
    assert repeated["loss"] == pytest.approx(reported["loss"], rel=1e-4)
    files = [ckpt, f"input={smears}/Pre-B", device, "num_workers=0"]
    rows = predicted(predict_config(tmp_path / "predictions", *files))
    assert len(rows) == 6 and all(row.best is not None and not row.error for row in rows)


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
