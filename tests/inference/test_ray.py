"""Ray Data predicts as one process does, also when a worker is killed; it needs the package ray."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.inference.predict import predict
from bcd.serving.answers import ImageAnswer
from bcd.serving.engine.loading import load_engine
from tests.helpers.harness import predict_config
from tests.helpers.parts import COUNT, contents, manifest, settings, written
from tests.serving.making import serve_config

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or sys.platform != "linux", reason="needs ray on Linux"
)


def workers() -> list[int]:
    """Process ids of the workers that this process has Ray run."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(status[1])
        except OSError:
            continue
    raylets = {pid for pid, parent in parents.items() if parent == os.getpid()}
    return [p for p in names if parents[p] in raylets and names[p].startswith(b"ray::MapWorker")]


def listening_beyond_loopback(pids: list[int]) -> list[str]:
    """Addresses of sockets, as /proc has them, at which processes can be reached from elsewhere."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(str(link.readlink()))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, own, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.append(own.partition(":")[0])
    assert found
    return [one for one in found if not one.endswith("0100007F")]


@needs_ray
@pytest.mark.slow
def test_several_workers_continue_a_run_although_one_is_killed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 160
    images = sorted((place / "in").iterdir())
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        for number in range(count):
            archive.add(images[number % COUNT], f"{number:03}.png")
    changed = {"input": tmp_path / "archive.tar", "batch_size": 4, "part_rows": 10}

    def run(name: str, each: object = None, **others: object) -> None:
        words = settings(place, output=tmp_path / name, **changed, **others)
        predict(predict_config(tmp_path, *words), each)  # type: ignore[arg-type]

    run("whole")
    seen: list[Prediction] = []

    def stop(made: Prediction) -> None:
        seen.append(made)
        if len(seen) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("out", stop)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    killed: list[int] = []
    reachable: list[str] = []

    def kill(made: Prediction) -> None:
        if not killed:
            reachable.extend(listening_beyond_loopback([os.getpid(), *workers()]))
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    run("out", kill, engine="ray", workers=2)
    assert len(killed) == 1
    assert reachable == []
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    one, other = (contents(tmp_path / name) for name in ("whole", "out"))
    assert {n: c for n, (c, _) in one.items() if n != "manifest.json"} == {
        n: c for n, (c, _) in other.items() if n != "manifest.json"
    }
    assert len(written(tmp_path / "out")) == count
    assert manifest(tmp_path / "out")["tally"] == manifest(tmp_path / "whole")["tally"]
    check_served(place / "run", images, written(tmp_path / "out"), tmp_path)


def check_served(run: Path, images: list[Path], rows: list[dict[str, str]], folder: Path) -> None:
    """Checks that a server of the same run gives the answers of the first rows."""
    engine = load_engine(serve_config(folder, f"model={run}", "device=cpu"))

    async def ask() -> list[ImageAnswer]:
        found = await engine.answer([file.read_bytes() for file in images])
        await engine.close()
        return found

    for answer, row in zip(asyncio.run(ask()), rows, strict=False):
        assert (answer.predicted or "") == row["prediction"]
        assert (answer.refer, "; ".join(answer.reasons)) == (row["refer"] == "true", row["reason"])
        shares = [float(row[f"p_{name}"]) for name in engine.identity.classes if answer.predicted]
        assert answer.probabilities == pytest.approx(shares, abs=1e-5)
    assert {answer["prediction"] for answer in rows[: len(images)]} > {""}


def test_without_ray_the_extra_is_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = settings(place, engine="ray", output=tmp_path / "out")
    with pytest.raises(BcdError, match=r"engine=ray: needs a package: pip install 'bcd\[ray\]'"):
        predict(predict_config(tmp_path, *words))
    assert not (tmp_path / "out").exists()
    words = settings(place, engine="ray", explain="true")
    with pytest.raises(ConfigError, match="explain=True: needs engine=local"):
        predict(predict_config(tmp_path, *words))
