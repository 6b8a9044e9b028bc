"""The wheel works where there is no checkout."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.harness import ROOT

# The demo with few small images and two epochs.
SMALL_DEMO = (
    "experiment=demo", "data.generate.count=48", "data.generate.size=48", "data.num_workers=0",
    "model.input_size=48", "trainer.max_epochs=2", "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with the programs of an environment in which the wheel is installed.

    It finds this environment's packages, but not what an editable installation adds to them.
    """
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, env=environment(folder))
    (wheel,) = folder.glob("bcd-*.whl")
    venv.create(folder / "venv", with_pip=False)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    into = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    # Files with this suffix are not read in the folders that one of them names.
    Path(into, "packages.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
    install = ["--python", str(python), "install", "--no-deps", "--no-index", "--force-reinstall"]
    install += ["--ignore-installed", str(wheel)]
    subprocess.run([*pip, *install], check=True, env=environment(folder))
    yield programs


def environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HYDRA_"))}
    return {**kept, "BCD_CACHE": str(folder / "cache")}


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed / words[0], *words[1:]], cwd=cwd, env=environment(cwd), capture_output=True,
        text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_an_installed_wheel_trains_and_predicts_in_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    show = "import bcd, sys, bcd.config.compose as c; print(bcd.__file__, c.CONF, *sys.path)"
    places = run(installed, tmp_path, "python", "-c", show)
    assert places.returncode == 0, places.stderr
    assert str(ROOT) not in places.stdout.replace(str(Path(torch.__file__).parents[1]), "")
    done = run(installed, tmp_path, "bcd", "train", *SMALL_DEMO)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "outputs"]
    (folder,) = (tmp_path / "outputs" / "demo").iterdir()
    assert (folder / "report.html").is_file()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("predict:")]
    assert f"bcd predict ckpt=outputs/demo/{folder.name}" in line
    asked = ["ckpt=outputs/demo", "input=data/generated", "device=cpu", "output=p.csv"]
    done = run(installed, tmp_path, "bcd", "predict", *asked)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 48


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_configuration(installed: Path, tmp_path: Path) -> None:
    show = "import bcd.config.compose as c; print(c.CONF)"
    conf = Path(run(installed, tmp_path, "python", "-c", show).stdout.strip())
    expected = {file.relative_to(ROOT / "conf") for file in (ROOT / "conf").rglob("*.yaml")}
    assert {file.relative_to(conf) for file in conf.rglob("*.yaml")} == expected


@pytest.mark.slow
def test_the_wheel_holds_the_styles_and_scripts_of_pages(installed: Path, tmp_path: Path) -> None:
    show = "import bcd.reporting as r; print(r.__path__[0])"
    assets = Path(run(installed, tmp_path, "python", "-c", show).stdout.strip()) / "assets"
    for file in (ROOT / "bcd" / "reporting" / "assets").iterdir():
        assert (assets / file.name).read_bytes() == file.read_bytes()
