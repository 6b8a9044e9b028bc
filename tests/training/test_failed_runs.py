"""Runs that end badly: what is said, with which status, and what is left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from bcd.errors import BcdError, foreseen
from bcd.models.checkpoint_content import read_content
from bcd.storage import PART, replacing
from bcd.training.run import train
from tests.helpers.forking import limit_files
from tests.helpers.harness import (
    ROOT,
    SMALL,
    assert_same_figures,
    error_lines,
    script,
    train_config,
)

FULL = os.strerror(errno.ENOSPC)
TOO_LARGE = os.strerror(errno.EFBIG)  # what a limit on the size of files says; root obeys it too


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that names images which are drawn already."""
    root = tmp_path_factory.mktemp("drawn")
    train(train_config(root / "run", *SMALL, f"data.root={root}/smears"))
    return f"data.root={root}/smears"


def begun(smears: str, cwd: Path) -> tuple[subprocess.Popen[str], Path]:
    """Starts to train; returns when the first of its epochs is saved."""
    words = [sys.executable, str(ROOT / "train.py"), *SMALL, smears, "trainer.max_epochs=25"]
    # A shell's background jobs ignore SIGINT, and what they start does too.
    heeds = None if os.name == "nt" else partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(words, cwd=cwd, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if found := list(cwd.glob("outputs/default/*/checkpoints/last.ckpt")):
            return process, found[0].parent.parent
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate()[1])


def one_more(run: Path) -> str:
    """The override with which a run has another epoch."""
    return f"trainer.max_epochs={read_content(run / 'checkpoints' / 'last.ckpt')['epoch'] + 2}"


def left_in(folder: Path) -> set[str]:
    """Files by their place in the folder, but those that grow or were just being written."""
    files = (file for file in folder.rglob("*") if file.is_file())
    names = {file.relative_to(folder).as_posix() for file in files}
    return {name for name in names if "tfevents" not in name and not name.endswith(PART)}


@pytest.mark.slow
def test_a_killed_run_leaves_whole_checkpoints_and_later_runs_as_they_were(
    smears: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, run = begun(smears, tmp_path)
    process.kill()
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL
    assert "error" not in said
    checkpoints = {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    assert left_in(run) == {"config.yaml", "split.csv", "hparams.yaml", *checkpoints}
    for name in checkpoints:
        content = read_content(run / name)
        assert content["card"]["classes"]
        assert not content["card"]["policy"]
    later = train(train_config(tmp_path / "later", *SMALL, smears))
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "untouched"))
    undisturbed = train(train_config(tmp_path / "undisturbed", *SMALL, smears))
    assert later is not None and undisturbed is not None
    assert_same_figures(later.metrics, undisturbed.metrics)
    resume = f"resume={run}/checkpoints/last.ckpt"
    train(train_config(run, *SMALL, smears, one_more(run), resume))
    assert (run / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_an_interrupted_run_says_how_to_go_on_and_that_works(smears: str, tmp_path: Path) -> None:
    process, run = begun(smears, tmp_path)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 130
    (line,) = [line for line in said if line.startswith("error: ")]
    assert line == said[-1]
    match = re.fullmatch(r"error: interrupted: .*\b(resume=\S+).*", line)
    assert match, line
    assert {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= left_in(run)
    assert not list(run.rglob(f".*{PART}"))
    done = script("train.py", *SMALL, smears, one_more(run), match[1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run folder: " in done.stderr
    assert len(list(tmp_path.rglob("report.html"))) == 1


def limited(size: int, *words: str) -> subprocess.CompletedProcess[str]:
    return script(*words, prepare=partial(limit_files, size))


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done.stderr
    (line,) = error_lines(done)
    assert line == done.stderr.splitlines()[-1]
    assert all(part in line for part in parts), line
    assert "Error executing job" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_disk_too_full_for_a_checkpoint_ends_training_in_a_line(
    smears: str, tmp_path: Path
) -> None:
    words = ["train.py", *SMALL, smears, f"hydra.run.dir={tmp_path}/run"]
    assert_one_line(limited(100_000, *words), f"{tmp_path}/run/checkpoints/best.ckpt", TOO_LARGE)
    assert left_in(tmp_path) == {"run/config.yaml", "run/split.csv", "run/hparams.yaml"}
    assert not list(tmp_path.rglob(f".*{PART}"))


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_no_half_checkpoint(smears: str, tmp_path: Path) -> None:
    """With a disk of its own, which the temporary folder is not on."""
    disk, kept, log = (tmp_path / name for name in ("disk", "kept", "log"))
    for folder in (disk, kept):
        folder.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to make a small disk with")
    mount = f"mount -t tmpfs -o size=1900k none {disk}"
    able = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False)
    if able.returncode:
        pytest.skip("a small disk cannot be made here")
    # The disk goes with the process that it was made for, so its files are copied before.
    program = f'{mount} && {{ "$@" 2>{log}; status=$?; cp -r {disk}/. {kept}; exit $status; }}'
    words = [sys.executable, "train.py", *SMALL, smears, f"hydra.run.dir={disk}/run"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", program, "sh", *words], cwd=ROOT, text=True, check=False
    )
    done.stderr = log.read_text()
    assert_one_line(done, f"{disk}/run/checkpoints/last.ckpt", FULL)
    assert "run/checkpoints/best.ckpt" in left_in(kept)
    for file in kept.rglob("*.ckpt"):
        assert read_content(file)["card"]["classes"]
    assert not list(kept.rglob(f".*{PART}"))


@pytest.mark.slow
def test_a_disk_too_full_for_predictions_ends_in_a_line(smears: str, tmp_path: Path) -> None:
    root = Path(smears.partition("=")[2])
    given = [f"ckpt={root.parent}/run", f"input={root}", f"hydra.run.dir={tmp_path}/run"]
    assert_one_line(limited(1000, "predict.py", *given), f"{tmp_path}/run", TOO_LARGE)
    assert not list(tmp_path.rglob("predictions.csv"))


@pytest.mark.slow
def test_a_disk_too_full_for_the_bank_ends_in_a_line(
    smears: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    frozen = ["model=mobilenetv2", "model.weights=null", "model.input_size=48"]
    words = ["train.py", *SMALL, smears, *frozen, f"hydra.run.dir={tmp_path}/run"]
    assert_one_line(limited(20_000, *words), f"{tmp_path}/cache/features", TOO_LARGE)
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob(f".*{PART}"))


def test_what_stood_there_stays_where_the_disk_is_full(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    with pytest.raises(OSError, match=FULL) as caught, replacing(file) as stream:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, FULL)
    assert caught.value.filename == str(file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "before"


@pytest.mark.parametrize("name", ["ENOSPC", "EFBIG", "EROFS", "EACCES", "EIO"])
def test_trouble_with_the_disk_is_told_with_file_and_reason(name: str) -> None:
    number = getattr(errno, name)
    error = RuntimeError("something of a library")
    error.__cause__ = OSError(number, os.strerror(number), "folder/file")
    told = foreseen(error)
    assert told is not None and told.status == 1
    assert str(told).startswith(f"folder/file: {os.strerror(number)}")


def test_other_errors_are_not_taken_for_trouble_with_the_disk() -> None:
    assert foreseen(FileNotFoundError(errno.ENOENT, "no such file", "x")) is None
    assert foreseen(ValueError("x")) is None
    line = BcdError("a line", 2)
    assert foreseen(line) is line
