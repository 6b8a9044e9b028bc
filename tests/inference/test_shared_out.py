"""An exported file in a folder of parts, and the script for a job array."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bcd.errors import BcdError
from bcd.inference.predict import predict
from tests.helpers.exported import MODEL, asked
from tests.helpers.harness import ROOT, predict_config
from tests.helpers.parts import manifest, rows_of, written


def test_an_exported_file_fills_a_folder_as_it_fills_a_file(made: Path, tmp_path: Path) -> None:
    settings = {"model": str(made / MODEL), "part_rows": 3}
    predict(asked(made, tmp_path, output=str(tmp_path / "one.csv"), **settings))
    predict(asked(made, tmp_path, output=str(tmp_path / "out"), **settings))
    assert written(tmp_path / "out") == rows_of(tmp_path / "one.csv")
    assert manifest(tmp_path / "out")["model"]["file"] == MODEL
    with pytest.raises(BcdError, match=r"the model's file was \"model\.onnx\" and is now"):
        settings["model"] = shutil.copy(made / MODEL, tmp_path / "other.onnx")
        predict(asked(made, tmp_path, output=str(tmp_path / "out"), **settings))
    settings["model"] = str(tmp_path / "gone.onnx")
    with pytest.raises(BcdError, match=r"model=.*gone\.onnx: cannot be read \(No such file"):
        predict(asked(made, tmp_path, output=str(tmp_path / "new"), **settings))
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_job_array_predicts_one_shard_in_each_task(tmp_path: Path) -> None:
    script = ROOT / "docs" / "predict_array.sbatch"
    (told,) = re.findall(r"^#SBATCH --array=1-(\d+)$", script.read_text(), re.MULTILINE)
    bcd = tmp_path / "bcd"
    bcd.write_text("#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done\n")
    bcd.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script), "my run", "new images", "out"],
        env={"PATH": path, "SLURM_ARRAY_TASK_ID": told},
        capture_output=True,
        text=True,
        check=True,
    )
    verb, *words = done.stdout.splitlines()
    quoted = [f"{key}={json.dumps(value)}" for key, _, value in (w.partition("=") for w in words)]
    cfg = predict_config(tmp_path, *quoted)
    assert verb == "predict"
    assert (cfg.ckpt, cfg.input, cfg.output) == ("my run", "new images", "out/")
    assert cfg.shard == f"{told}/{told}"
