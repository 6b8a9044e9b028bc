"""The demo model, trained on drawn smears in a process of its own when no model is given."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from bcd.console import say, short
from bcd.errors import BcdError

DEMO_NAME = "demo, trained on drawn smears"

_FILE = "demo.onnx"
# A small network that learns the drawn classes in about a minute. Many slides, drawn as large as
# smears usually are, so that it also knows smears of other slides. Augmentation needs more epochs.
_TRAINING = (
    "experiment=demo",
    "report=brief",
    "logger=none",
    "data.generate.count=1000",
    "data.generate.slides=40",
    "split.test=0.1",
    "split.val=0.15",
    "augment=none",
    "model.input_size=80",
    "trainer.max_epochs=12",
    "decision.sensitivity=0.95",  # more would refer many, because val is small
    "trainer.accelerator=cpu",
)
# For so small a network, threads wait for each other longer than they compute.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def demo_model(folder: Path) -> Path:
    """The exported demo model; it is trained first if it is not there.

    Args:
        folder: Of the server; the model is in `demo` below it.

    Raises:
        BcdError: It cannot be trained.
    """
    own = (folder / "demo").absolute()
    file = own / _FILE
    if file.is_file():
        say(f"no model is given: serving the demo model, trained on drawn smears: {short(file)}")
        return file
    if find_spec("torch") is None:
        raise BcdError("model=null: training the demo model needs torch: give model=<export>")
    say("no model is given: training a demo model on drawn smears; it says nothing about blood")
    begun = time.monotonic()
    run, made = own / "run", own / f"new-{os.getpid()}.onnx"
    _bcd("train", *_TRAINING, f"data.root={own / 'smears'}", f"hydra.run.dir={run}")
    _bcd("export", f"ckpt={run}", f"output={made}")
    try:
        made.replace(file)  # only a finished one is used again
    except OSError as error:
        raise BcdError(f"folder={folder}: cannot be written ({error.strerror})") from error
    say(f"demo model: {short(file)} ({time.monotonic() - begun:.0f} s)")
    return file


def _bcd(*arguments: str) -> None:
    """Runs a command of bcd; torch and its memory end with it."""
    done = subprocess.run(
        [sys.executable, "-m", "bcd", *arguments],
        env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BcdError(f"model=null: the demo model cannot be made ({last}): give model=<export>")
