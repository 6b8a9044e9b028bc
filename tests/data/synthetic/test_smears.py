"""Folders of drawn smears: complete, balanced, and harmless to whatever else is there."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest

from bcd.data.synthetic import smears as generated
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear, generate
from bcd.errors import BcdError


def _files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_two_runs_give_equal_bytes_with_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    generate(tmp_path / "one", count=16, slides=2, size=48, seed=4)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(generated, "_WORTH", 0)
    generate(tmp_path / "two", count=16, slides=2, size=48, seed=4)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_where_no_processes_can_be_had_it_draws_in_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise BrokenProcessPool("spawned from a script without a guard")

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(generated, "_WORTH", 0)
    monkeypatch.setattr(generated, "ProcessPoolExecutor", broken)
    generate(tmp_path / "g", count=8, slides=2, size=32, progress=True)
    assert len(_files(tmp_path / "g")) == 9
    assert "Drawing smears: 8/8" in capsys.readouterr().err


def test_every_slide_holds_every_class_in_equal_shares(tmp_path: Path) -> None:
    generate(tmp_path / "g", count=48, slides=3, size=32)
    names = [path for path in _files(tmp_path / "g") if path != "generated.json"]
    assert len(names) == 48
    assert len({Path(name).stem for name in names}) == 48
    for slide in range(3):
        for name in CLASS_NAMES:
            assert sum(path.startswith(f"{name}/slide{slide:02d}-") for path in names) == 4
    number = int(Path(names[0]).stem.split("-")[1])
    written = cv2.imread(str(tmp_path / "g" / names[0]))
    name, slide = names[0].split("/")[0], int(Path(names[0]).stem[5:7])
    assert written is not None
    drawn = draw_smear(name, slide=slide, index=number, size=32)
    assert np.array_equal(written[:, :, ::-1], drawn)


def test_classes_are_as_equal_as_the_count_allows(tmp_path: Path) -> None:
    generate(tmp_path / "g", count=10, slides=2, size=32)
    held = [len(list((tmp_path / "g" / name).iterdir())) for name in CLASS_NAMES]
    assert held == [3, 3, 2, 2]


def test_a_finished_folder_is_left_alone_and_another_parameter_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "g"
    generate(root, count=8, slides=2, size=32)
    before = _files(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    time.sleep(0.02)
    with monkeypatch.context() as patch:
        patch.setattr(generated, "draw_smear", None)  # nothing is drawn a second time
        generate(root, count=8, slides=2, size=32)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    generate(root, count=8, slides=2, size=32, seed=1)
    assert _files(root).keys() == before.keys()
    assert _files(root) != before
    assert json.loads((root / "generated.json").read_text())["seed"] == 1


def test_an_interrupted_folder_is_made_anew(tmp_path: Path) -> None:
    generate(tmp_path / "whole", count=8, slides=2, size=32)
    broken = tmp_path / "broken"
    (broken / "Benign").mkdir(parents=True)
    (broken / "Benign" / "slide00-00000.png").write_bytes(b"half")
    generate(broken, count=8, slides=2, size=32)
    assert _files(broken) == _files(tmp_path / "whole")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    generate(tmp_path / "g", count=4, slides=1, size=32)
    assert len(_files(tmp_path / "g")) == 5


@pytest.mark.parametrize(
    "stray",
    [
        "notes.txt",
        "Benign/patient1.png",
        "Benign/more/slide00-00000.png",
        "Other/slide00-00000.png",
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_a_foreign_folder_is_refused_and_untouched(
    tmp_path: Path, stray: str, finished: bool
) -> None:
    root = tmp_path / "g"
    if finished:
        generate(root, count=4, slides=1, size=32)
    (root / stray).parent.mkdir(parents=True, exist_ok=True)
    (root / stray).write_bytes(b"precious")
    before = _files(root)
    with pytest.raises(BcdError, match="choose another folder") as refusal:
        generate(root, count=8, slides=2, size=32)
    assert "\n" not in str(refusal.value)
    assert _files(root) == before
    assert list(tmp_path.iterdir()) == [root]


def test_a_foreign_generated_json_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "generated.json").write_text('{"mine": 1}')
    (tmp_path / "file").write_text("x")
    for name in ("g", "file"):
        with pytest.raises(BcdError, match="left alone"):
            generate(tmp_path / name, count=4, slides=1, size=32)
    assert (tmp_path / "g" / "generated.json").read_text() == '{"mine": 1}'


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(generated, "draw_smear", fail)
    with pytest.raises(BcdError, match="disk full"):
        generate(tmp_path / "g", count=4, slides=1, size=32)
    assert list(tmp_path.iterdir()) == []


def test_runs_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    root = tmp_path / "g"
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(generate, root, count=12, slides=3, size=32) for _ in range(4)]
        for run in runs:
            run.result()
    generate(tmp_path / "alone", count=12, slides=3, size=32)
    assert _files(root) == _files(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "g"]


def test_another_process_that_gets_in_between_is_not_harmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "g"
    others: list[bool] = []
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if self == root and not others:
            others.append(True)
            try:
                return rename(self, target)
            finally:  # another run finishes between the two renames of this one
                generate(root, count=4, slides=1, size=32)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    generate(root, count=4, slides=1, size=32)
    assert others
    assert len(_files(root)) == 5
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("wrong", [{"count": 3}, {"size": 31}, {"slides": 0}, {"seed": -1}])
def test_wrong_numbers_are_named(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(BcdError, match=next(iter(wrong))):
        generate(tmp_path / "g", **({"count": 8, "size": 32} | wrong))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
