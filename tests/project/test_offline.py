"""Nothing leaves the machine, and nothing is written where nobody looks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcd.config.environment import send_nothing, use_own_folders
from bcd.data.load import load_catalog
from tests.helpers.harness import ROOT, SMALL, train_config
from tests.helpers.tracing import beyond_loopback, calls_of, sent, traced, why_not, written

# What a child process may inherit: nothing that this process has settled already.
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "OMP_NUM_THREADS")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: the address of a local socket has some hundred characters at most."""
    with tempfile.TemporaryDirectory(prefix="offline", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def fresh_environment(folder: Path) -> dict[str, str]:
    """The environment of a user who has just been made: an empty home, and no variables."""
    places = {"HOME": "home", "USERPROFILE": "home", "LOCALAPPDATA": "home"}
    places |= {"TMPDIR": "temporary", "TEMP": "temporary", "BCD_CACHE": "cache"}
    for name in set(places.values()):
        (folder / name).mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, **{variable: str(folder / name) for variable, name in places.items()}}


# Runs scripts one after the other in one process, which imports torch once.
_ONE_BY_ONE = """
import json, runpy, sys
for call in json.loads(sys.argv[1]):
    sys.argv = list(call)
    try:
        runpy.run_path(call[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.slow
def test_programs_send_nothing_and_write_only_into_their_folders(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    environment = fresh_environment(tmp_path)
    smears, runs = tmp_path / "smears", tmp_path / "runs"
    load_catalog(train_config(tmp_path, *SMALL, f"data.root={smears}").data)  # draws them
    given = [f"data.root={smears}", "model=cnn", "model.input_size=48"]
    best, other = f"{runs}/train/checkpoints/best.ckpt", f"{runs}/copy.ckpt"
    (tmp_path / "copy.py").write_text("import shutil, sys; shutil.copy(*sys.argv[1:])")
    # The worker is a process of its own.
    calls = [
        ["train.py", *SMALL, *given, "data.num_workers=1", f"hydra.run.dir={runs}/train"],
        ["eval.py", f"ckpt={best}", f"hydra.run.dir={runs}/eval"],
        ["predict.py", f"ckpt={best}", f"input={smears}", f"hydra.run.dir={runs}/predict"],
        ["bcd/__main__.py", "audit", *given, f"hydra.run.dir={runs}/audit"],
        [str(tmp_path / "copy.py"), best, other],
        ["bcd/__main__.py", "compare", f"ckpts=[{best},{other}]", f"hydra.run.dir={runs}/compare"],
    ]
    log = tmp_path / "calls.txt"
    words = [sys.executable, "-c", _ONE_BY_ONE, json.dumps(calls)]
    done = traced(words, ROOT, environment, log)
    assert done.returncode == 0, done.stderr
    expected = {
        "train": "report.html", "eval": "metrics.json", "predict": "predictions.csv",
        "audit": "audit.html", "compare": "comparison.json",
    }  # fmt: skip
    paths = written(log, ROOT)
    assert {runs / name / file for name, file in expected.items()} <= paths
    assert sent(log) == []
    allowed = [
        runs,
        tmp_path / "cache",
        tmp_path / "temporary",
        Path("/dev/shm"),
        Path("/dev/null"),
    ]
    strays = [
        path
        for path in paths
        if "__pycache__" not in path.parts and not any(map(path.is_relative_to, allowed))
    ]
    assert strays == []
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
@pytest.mark.exhaustive  # other programs are traced in make test
def test_processes_that_train_together_talk_within_the_machine(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    environment = fresh_environment(tmp_path)
    chosen = [*SMALL, f"data.root={tmp_path}/smears", f"hydra.run.dir={tmp_path}/run"]
    words = [sys.executable, "train.py", *chosen, "trainer=ddp", "trainer.devices=2"]
    log = tmp_path / "calls.txt"
    done = traced(words, ROOT, environment, log)
    assert done.returncode == 0, done.stderr
    assert any(name == "bind" and "127.0.0.1" in said for name, said, _ in calls_of(log))
    assert beyond_loopback(log) == []
    assert not list((tmp_path / "temporary").glob("bcd*"))


# Imports all of bcd and what it brings, and makes what is known to report itself; prints what was
# tried. A library may catch what the hook raises, so it is noted too.
_IMPORTING = """
import importlib, importlib.util, json, pkgutil, sys
tried = []
def hook(event, arguments):
    network = event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "urllib.Request")
    if network or event == "socket.gethostbyname":
        tried.append(f"{event} {arguments[-1]!r}")
        raise OSError("no network")
sys.addaudithook(hook)
import bcd
for module in pkgutil.walk_packages(bcd.__path__, "bcd."):
    importlib.import_module(module.name)
for name in ("albumentations", "onnxruntime", "kagglehub", "lightning.pytorch", "timm", "optuna",
             "huggingface_hub", "openvino", "torch.utils.tensorboard", "hydra_plugins"):
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)
import hydra.core.plugins
hydra.core.plugins.Plugins.instance()
import torch
from bcd.features.engines import make_engine
from bcd.models.frozen_prefix import FrozenPrefix
blocks = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
prefix = FrozenPrefix(blocks, True, (0.5,) * 3, (0.5,) * 3)
for name in ("onnxruntime", "openvino"):
    if importlib.util.find_spec(name):
        make_engine(name, prefix, 16, torch.device("cpu"))
print(json.dumps(tried))
"""


@pytest.mark.exhaustive  # what programs import is traced with them
def test_importing_all_of_it_asks_for_no_network_and_leaves_the_home_alone(tmp_path: Path) -> None:
    environment = fresh_environment(tmp_path)
    # Allowing it in so many words is no different: it is the user's choice, not the patients'.
    allowed = {"ORT_DISABLE_TELEMETRY": "0", "NO_ALBUMENTATIONS_UPDATE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING],
        cwd=ROOT,
        env={**environment, **allowed, "MPLCONFIGDIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert list((tmp_path / "home").rglob("*")) == []


def test_what_reports_itself_is_off_whatever_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ORT_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_DISABLE_TELEMETRY")
    for name in names:
        monkeypatch.setenv(name, "0")
    send_nothing()
    assert [os.environ[name] for name in names] == ["1", "1", "1"]
    with pytest.raises(ImportError):
        import openvino_telemetry  # type: ignore[import-not-found]  # noqa: F401


def test_fonts_are_listed_in_the_cache_unless_a_folder_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    use_own_folders()
    assert Path(os.environ["MPLCONFIGDIR"]) == tmp_path / "matplotlib"
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    use_own_folders()
    assert os.environ["MPLCONFIGDIR"] == "mine"
