"""Every shipped experiment and model runs through the real command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import CONF, script
from omegaconf import OmegaConf

TINY = (
    "+trainer.fast_dev_run=true",
    "trainer.accelerator=cpu",
    "data=generated",
    "data.generate.count=24",
    "data.generate.size=64",
    "data.generate.slides=3",
    "data.num_workers=0",
    "model.weights=null",
    "model.input_size=64",
)


# Networks for which that is too small.
WIDER = {"model=inception_v3": "model.input_size=75"}


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("choice", [f"experiment={n}" for n in names("experiment")] +
                         [f"model={n}" for n in names("model")])  # fmt: skip
def test_it_runs(choice: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = [*TINY[:-1], WIDER.get(choice, TINY[-1])]
    done = script("train.py", choice, *small, f"data.root={tmp_path}/in", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    assert (run / "metrics.json").is_file()
    assert f"{run}" in done.stderr


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
