"""An exported file with its run, and copies of it with other metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from bcd.config.compose import with_defaults
from bcd.config.programs import PredictConfig, SiteProfileConfig
from bcd.data.site_profile import profile_site
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.storage import digest
from bcd.training.run import train
from tests.helpers.harness import SMALL, train_config, verb
from tests.helpers.noise import write_image

SIDE = 112  # red cells can be measured
MODEL = "model.onnx"


def make_exported(folder: Path) -> None:
    """Makes `run`, the exported file `MODEL`, and images in `new`, of which one is torn."""
    size = (f"data.generate.size={SIDE}", f"model.input_size={SIDE}", "data.batch_size=4")
    train(train_config(folder / "run", *SMALL, *size, f"data.root={folder / 'images'}"))
    done = verb("export", f"ckpt={folder / 'run'}", f"output={folder / 'model.onnx'}")
    assert done.returncode == 0, done.stderr
    for number in range(14):
        name = CLASS_NAMES[number % 4]
        image = draw_smear(name, slide=number % 5, index=number, seed=9, size=90 + 9 * number)
        write_image(folder / "new" / f"{number:02d}.png", image)
    (folder / "new" / "05 torn.png").write_bytes(b"\x89PNG\r\n")


def asked(made: Path, run_dir: Path, **settings: Any) -> PredictConfig:
    given: dict[str, Any] = {"input": str(made / "new"), "device": "cpu", "run_dir": str(run_dir)}
    given |= {"num_workers": 0, "ckpt": None, "model": None, **settings}
    return with_defaults(PredictConfig, **given)


def measured(folder: Path, file: Path) -> Path:
    """A profile of the images of `make_exported`."""
    site = {"root": str(folder / "new"), "output": str(file), "run_dir": str(file.parent)}
    profile_site(with_defaults(SiteProfileConfig, **site, num_workers=0))
    return file


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def changed(made: Path, folder: Path, change: Change) -> Path:
    """A copy of the exported file with other metadata, and the checksum of its card."""
    model = onnx.load(str(made / MODEL))
    entries = {entry.key: entry for entry in model.metadata_props}
    content, card = (json.loads(entries[name].value) for name in ("bcd", "card"))
    change(content, card)
    entries["card"].value = json.dumps(card)
    content["card_sha256"] = content.get("card_sha256") and digest(entries["card"].value)
    entries["bcd"].value = json.dumps(content)
    file = folder / "changed.onnx"
    onnx.save(model, str(file))
    return file
