"""The drawn smears: repeatable, balanced, told apart by shape and not by colour."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data import generated
from bcd.data.generated import CLASS_NAMES, draw_smear, generate
from bcd.errors import BcdError


def _files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def _sample(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``count`` pictures as ``generate`` orders them, and their class numbers."""
    numbers = np.arange(count)
    drawn = [
        draw_smear(CLASS_NAMES[k % 4], slide=int(k // 4 % 8), index=int(k), seed=5) for k in numbers
    ]
    return np.stack(drawn), numbers % 4


def _nuclei(picture: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
    """Areas (pixels) of the single nuclei off the edge, and the share of the picture in nuclei.

    Only the nuclear dye takes this much of the green light.
    """
    green = picture[:, :, 1].astype(np.float64)
    depth = np.log(np.percentile(green, 98) / np.maximum(green, 1.0))
    core = (depth > 0.62).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(core)
    side = picture.shape[0]
    boxes = stats[1:]
    whole = (boxes[:, 0] > 0) & (boxes[:, 1] > 0)
    whole &= (boxes[:, 0] + boxes[:, 2] < side) & (boxes[:, 1] + boxes[:, 3] < side)
    round_ones = boxes[:, 4] > 0.6 * boxes[:, 2] * boxes[:, 3]  # touching ones leave gaps
    areas = boxes[whole & round_ones & (boxes[:, 4] > 150), 4].astype(np.float64)
    return areas, float(core.mean())


def test_same_arguments_draw_the_same_bytes_in_any_process() -> None:
    here = draw_smear("Pre-B", slide=2, index=7, seed=3, size=96)
    again = draw_smear("Pre-B", slide=2, index=7, seed=3, size=96)
    assert np.array_equal(here, again)
    code = (
        "import sys; from bcd.data.generated import draw_smear;"
        "sys.stdout.buffer.write(draw_smear('Pre-B', slide=2, index=7, seed=3, size=96).tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert there.stdout == here.tobytes()


def test_drawing_neither_reads_nor_moves_the_global_random_state() -> None:
    np.random.seed(1)
    first = draw_smear("Benign", slide=0, index=0, size=64)
    after = np.random.random()
    np.random.seed(1)
    assert np.random.random() == after
    assert np.array_equal(first, draw_smear("Benign", slide=0, index=0, size=64))


@pytest.mark.parametrize("change", [{"slide": 1}, {"index": 1}, {"seed": 1}])
def test_another_slide_index_or_seed_draws_another_picture(change: dict[str, int]) -> None:
    base = {"slide": 0, "index": 0, "seed": 0, "size": 64}
    first, second = draw_smear("Pro-B", **base), draw_smear("Pro-B", **(base | change))
    # the scene differs, not only stain or noise: the same cells elsewhere would correlate
    assert abs(np.corrcoef(first[:, :, 1].ravel(), second[:, :, 1].ravel())[0, 1]) < 0.4


def test_each_class_draws_another_scene() -> None:
    drawn = [draw_smear(name, slide=0, index=0, size=64).astype(int) for name in CLASS_NAMES]
    for number, first in enumerate(drawn):
        for second in drawn[number + 1 :]:
            assert np.mean(np.abs(first - second) > 25) > 0.1


def test_pictures_of_one_slide_share_stain_and_slides_differ() -> None:
    def light(slide: int, index: int) -> NDArray[np.float64]:
        drawn = draw_smear("Benign", slide=slide, index=index, size=64)
        return np.asarray(np.quantile(drawn, [0.2, 0.9], axis=(0, 1)).ravel(), dtype=np.float64)

    levels = np.array([[light(slide, index) for index in range(6)] for slide in range(6)])
    within = levels.std(axis=1).mean()
    between = levels.mean(axis=1).std(axis=0).mean()
    assert between > within


@pytest.mark.parametrize("size", [32, 33, 224, 700])
def test_any_size_gives_rgb_bytes(size: int) -> None:
    drawn = draw_smear("Pro-B", slide=1, index=1, size=size)
    assert drawn.shape == (size, size, 3)
    assert drawn.dtype == np.uint8
    assert drawn.std() > 15


def test_a_larger_picture_shows_the_same_scene() -> None:
    small = draw_smear("Pro-B", slide=3, index=5, size=224).astype(float)
    large = draw_smear("Pro-B", slide=3, index=5, size=448).astype(np.float32)
    shrunk = cv2.resize(large, (224, 224), interpolation=cv2.INTER_AREA)
    other = draw_smear("Pro-B", slide=3, index=6, size=224).astype(float)
    assert np.abs(small - shrunk).mean() < 0.25 * np.abs(small - other).mean()


def test_nuclei_differ_in_size_as_the_table_says() -> None:
    sizes = {}
    for name in CLASS_NAMES:
        drawn = [draw_smear(name, slide=k % 8, index=k) for k in range(32)]
        sizes[name] = np.median(np.concatenate([_nuclei(picture)[0] for picture in drawn]))
    # nuclei of 8.6, 9.0, 10.3 and 12.1 micrometres across
    assert sizes["Benign"] < 0.92 * sizes["Early Pre-B"]
    assert sizes["Pre-B"] < 0.95 * sizes["Early Pre-B"]
    assert sizes["Early Pre-B"] < 0.85 * sizes["Pro-B"]


def test_the_amount_of_nucleus_does_not_give_the_class_away() -> None:
    pictures, labels = _sample(96)
    share = np.array([_nuclei(picture)[1] for picture in pictures])
    means = np.array([share[labels == number].mean() for number in range(4)])
    assert share.mean() > 0.02
    assert means.max() < 1.4 * means.min()


def test_colour_does_not_give_the_class_away() -> None:
    from sklearn.ensemble import RandomForestClassifier

    pictures, labels = _sample(320)
    levels = np.quantile(pictures.reshape(320, -1, 3)[:, ::7], np.linspace(0.02, 0.98, 7), axis=1)
    colours = levels.transpose(1, 0, 2).reshape(320, -1)
    order = np.random.default_rng(0).permutation(320)
    train, test = order[:224], order[224:]
    forest = RandomForestClassifier(150, random_state=0).fit(colours[train], labels[train])
    assert (forest.predict(colours[test]) == labels[test]).mean() <= 0.55


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
    assert "drawing smears" in capsys.readouterr().out


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


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(BcdError, match="Post-B"):
        draw_smear("Post-B", slide=0, index=0)


def test_importing_is_cheap() -> None:
    code = (
        "import sys, bcd.data.generated;"
        "print(*{'torch', 'albumentations', 'rich', 'sklearn'} & {*sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert loaded.stdout.strip() == b""
