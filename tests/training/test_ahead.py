"""The second process gives what the run would compute itself, and the run can do without it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, ModelConfig, SplitConfig
from bcd.data import parallel
from bcd.data.reading import fit, read_image
from bcd.data.synthetic.smears import generate
from bcd.data.workspace import pixels_part
from bcd.errors import BcdError
from bcd.training.ahead import Ahead, Asked, Images

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")

SIDE = 48


def asked_of(root: Path) -> Asked:
    data = with_defaults(DataConfig, root=str(root))
    model = with_defaults(ModelConfig, backbone="cnn", weights=None, input_size=SIDE)
    return Asked.of(data, with_defaults(SplitConfig), model)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smears") / "in"
    generate(folder, count=48, slides=4, size=64, seed=0)
    return folder


def check_results(root: Path) -> None:
    """Run in an interpreter without torch, which may fork."""
    assert "torch" not in sys.modules
    parallel._MANY = 1  # the second process starts further ones, as for many images
    limits = threadpoolctl.threadpool_limits

    def limited(threads: int) -> object:
        assert "sklearn.cluster" in sys.modules  # which would not be limited if it came later
        return limits(threads)

    threadpoolctl.threadpool_limits = limited
    asked = asked_of(root)
    ahead = Ahead(asked)
    images, own = ahead.images(), asked.images()
    assert (images.catalog, images.split) == (own.catalog, own.split)
    assert images.profile.overlaps == own.profile.overlaps
    assert ahead.checks(images) == asked.checks(own)
    assert ahead.sheet(images) == partial(ahead.sheet, own)()
    kept = images.catalog.kept
    assert kept is not None and own.catalog.kept is None  # read once, by the second process
    for image in images.catalog.images[:3]:
        path = images.catalog.root / image.path
        found = kept.get(path, image.sha256, pixels_part(SIDE))
        assert found is not None
        assert np.array_equal(found, fit(read_image(path), SIDE))
    where = ahead.begin(os.getpid)
    assert where() == ahead._process.pid
    assert ahead._process.pid is not None
    os.kill(ahead._process.pid, signal.SIGKILL)
    ahead._process.join()
    assert ahead.begin(partial(sorted, [2, 1]))() == [1, 2]
    ahead.close()


def check_errors(root: Path) -> None:
    """As above."""
    nothing = root.parent / "empty"
    nothing.mkdir()
    empty = Ahead(asked_of(nothing))
    for _ in range(2):
        with pytest.raises(BcdError, match="no class"):
            empty.images()
    empty.close()

    killed = Ahead(asked_of(root))
    assert killed._process.pid is not None
    os.kill(killed._process.pid, signal.SIGKILL)
    killed._process.join()
    assert killed.images().catalog == killed.asked.images().catalog
    ahead = Ahead(asked_of(root))
    vars(ahead)["_with_workspace"] = int  # which fails
    images = ahead.images()  # a message is left unread, and no later one is taken for another
    assert ahead.checks(images) == ahead.asked.checks(images)
    ahead.close()

    job = killed.begin(partial(int, "no number"))
    with pytest.raises(ValueError, match="no number"):
        job()
    killed.close()
    assert not killed._process.is_alive()


class _Endless(Asked):
    """Settings for which the images take minutes to read, in further processes."""

    def images(self) -> Images:
        list(parallel.read_each(time.sleep, [60.0] * 99, True, "Reading"))
        raise AssertionError


def check_end(root: Path) -> None:
    """As above: the process and those that it started end at once, also when their parent dies."""
    parallel._MANY = 1
    own = asked_of(root)
    asked = _Endless(own.data, own.split, own.sides)
    ahead = Ahead(asked)
    started = _descendants(ahead)
    ahead.close()
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))

    receiver, sender = multiprocessing.Pipe(duplex=False)
    parent = os.fork()
    if parent == 0:
        sender.send(_descendants(Ahead(asked)))
        os.kill(os.getpid(), signal.SIGKILL)
    started = receiver.recv()
    os.waitpid(parent, 0)
    _wait_for(lambda: not any(_runs(pid) for pid in started))


def _descendants(ahead: Ahead) -> list[int]:
    """The process and those that it started, as soon as there is one."""
    pid = ahead._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    _wait_for(lambda: children.read_text() != "")
    assert pid is not None
    return [pid, *map(int, children.read_text().split())]


def _runs(pid: int) -> bool:
    try:  # a process without a parent may stay as a zombie
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.02)


@pytest.mark.parametrize("check", [check_results, check_errors, check_end])
def test_results_are_the_same_and_never_missing(check: object, root: Path, tmp_path: Path) -> None:
    name = getattr(check, "__name__", "")
    code = f"from pathlib import Path; from {__name__} import {name}; {name}(Path({str(root)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BCD_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_run_writes_the_same_with_and_without_a_second_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bcd.training.run import train
    from tests.helpers.harness import SMALL, fresh, train_config

    own = [word for word in SMALL if not word.startswith("data")]
    own += [f"data.root={root}", "data.num_workers=0", "logger=none"]
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "one"))
    done = fresh("train.py", *own, f"run_dir={tmp_path / 'ahead'}")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "other"))
    train(train_config(tmp_path / "alone", *own))

    # Figures are placeholders in the process of the tests; reports contain them.
    def files(folder: Path) -> dict[str, bytes]:
        found = {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}
        varying = ("run.json", "config.yaml", "report.html", "model_card.md")
        return {n: f.read_bytes() for n, f in found.items() if not n.endswith((".ckpt", *varying))}

    first, second = files(tmp_path / "ahead"), files(tmp_path / "alone")
    assert first.keys() == second.keys()
    assert {"metrics.json", "predictions.csv", "audit.json", "pairs.csv"} < first.keys()
    assert [n for n in first if first[n] != second[n] and not n.startswith("figures")] == []
