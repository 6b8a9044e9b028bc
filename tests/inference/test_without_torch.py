"""Predicting with an exported file where torch is not installed."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bcd.config.compose import with_defaults
from bcd.config.programs import SiteMatchConfig
from tests.helpers.exported import MODEL, asked, measured
from tests.helpers.harness import ROOT, predicted

# What training needs and predicting with an exported file does not.
BLOCKED = (
    "torch torchvision lightning torchmetrics sklearn scipy skimage rich matplotlib albumentations "
    "tensorboard captum onnx kagglehub filelock threadpoolctl timm pandas tqdm optuna joblib "
    "huggingface_hub pyarrow tiffslide ray model_signing openvino"
)
_PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()))
from bcd.__main__ import main
main("predict")
"""
# What the server needs besides; see requirements-serve.txt.
_SERVED = {"filelock", "matplotlib", "scipy", "skimage"}
_SERVER = """
import sys
from pathlib import Path
from bcd.serving.engine.loading import load_model
from tests.serving.making import serve_config, smear
from tests.serving.running import running
folder = Path(sys.argv[2])
cfg = serve_config(folder)
cfg.model = sys.argv[1]
model, identity = load_model(cfg)
with running(folder, model=model) as app:
    image = {"images": ("a.png", smear(1), "image/png")}
    case = app.all.post("/v1/cases", json={"label": "one"}).json()["id"]
    added = app.all.post(f"/v1/cases/{case}/images", files=image).json()["images"][0]["id"]
    asked = [
        app.all.post("/v1/predict", files=image),
        app.all.post("/v1/explain", files=image),
        app.all.get("/v1/model"),
        app.all.get(f"/v1/cases/{case}/report?format=pdf"),
        app.all.get(f"/cases/{case}", headers={"accept": "text/html"}),
        app.all.get(f"/cases/{case}/images/{added}", headers={"accept": "text/html"}),
        app.all.get("/dashboard", headers={"accept": "text/html"}),
    ]
print([answer.status_code for answer in asked])
print(asked[0].json()["images"][0]["class"] in identity.classes, asked[1].json()["method"])
"""


def _blocked(folder: Path, names: str) -> dict[str, str]:
    """The environment of processes in which these packages cannot be imported."""
    folder.mkdir()
    for name in names.split():  # for the processes that read images
        (folder / f"{name}.py").write_text("raise ImportError('blocked')\n")
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def test_an_exported_file_is_served_without_torch(made: Path, tmp_path: Path) -> None:
    names = " ".join(name for name in BLOCKED.split() if name not in _SERVED)
    done = subprocess.run(
        [sys.executable, "-c", _SERVER, str(made / MODEL), str(tmp_path / "records")],
        cwd=ROOT, capture_output=True, text=True, env=_blocked(tmp_path / "blocked", names),
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [str([200] * 7), "True occlusion"]


def test_predicting_needs_few_packages(made: Path, tmp_path: Path) -> None:
    environment = _blocked(tmp_path / "blocked", BLOCKED)
    profile = measured(made, tmp_path / "site.json")
    words = [f"model={made / MODEL}", f"input={made / 'new'}", f"output={tmp_path / 'rows'}"]
    words += [f"site.profile={profile}", "site.colour=macenko", "site.scale=false"]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, BLOCKED, *words], cwd=ROOT, capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr  # an image is torn
    match = with_defaults(SiteMatchConfig, profile=str(profile), scale=False, colour="macenko")
    expected = predicted(asked(made, tmp_path, ckpt=str(made / "run"), site=match))
    with (tmp_path / "rows" / "part-000001.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [p.path for p in expected]
    for row, prediction in zip(rows, expected, strict=True):
        assert (row["reason"], row["error"]) == ("; ".join(prediction.refer), prediction.error)
        given = [float(value) for name, value in row.items() if name.startswith("p_") and value]
        assert given == pytest.approx(prediction.probabilities, abs=1e-5)
    assert f"Predicting: {len(rows)}/{len(rows)}" in done.stderr
    referred = sum(bool(p.refer) and not p.error for p in expected)
    assert re.search(rf"^referred +{referred}$", done.stderr, re.M)  # a table without rich


def test_the_short_list_of_requirements_has_the_ranges_of_the_package() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = (ROOT / "requirements-predict.txt").read_text(encoding="utf-8").splitlines()
    needed = [line for line in lines if not line.startswith("#")]
    assert [re.split("[<>=]", line)[0] for line in needed] == [
        "hydra-core", "numpy", "onnxruntime", "opencv-python-headless", "pillow"
    ]  # fmt: skip
    assert all(f'  "{line}",\n' in declared for line in needed)
