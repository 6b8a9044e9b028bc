"""Failed runs print what docs/failures.md documents, with that status, and leave those files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from bcd.data.synthetic.smears import generate
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.training.run import train
from tests.helpers.forking import give_up_rights
from tests.helpers.harness import ROOT, SMALL, eval_config, script, train_config

NEW_RUN = {"config.yaml", "split.csv"}


def documented(row: str) -> tuple[str, list[str]]:
    """The exit status in a row of the table, and patterns of the lines that it quotes."""
    table = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8").splitlines()
    (cells,) = [line.split(" | ") for line in table if line.startswith(f"| {row} | ")]
    quoted = re.findall("`(.+?)`", cells[2])
    return cells[1], [re.escape(text).replace("…", ".+") for text in quoted]


def fails(row: str, *words: str, cwd: Path) -> str:
    """Starts a program that must fail as documented; returns its error line."""
    status, lines = documented(row)
    done = script(*words, cwd=cwd, prepare=give_up_rights)
    assert str(done.returncode) == status, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == done.stderr.splitlines()[-1:], done.stderr
    assert any(re.match(f"error: {line}", errors[0]) for line in lines), (errors, lines)
    return errors[0]


def left_in(folder: Path) -> set[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix() for file in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a finished run."""
    folder = tmp_path_factory.mktemp("failures")
    generate(folder / "images", count=48, slides=4, size=48, seed=0, progress=False)
    there = [word for word in SMALL if "generate" not in word]  # images exist already
    train(train_config(folder / "run", *there, "logger=none", f"data.root={folder / 'images'}"))
    return folder


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """Images and a run that a test may damage."""
    shutil.copytree(trained, tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("row", "words", "left"),
    [
        ("training diverges", ("optimizer=sgd", "optimizer.lr=3e38"), NEW_RUN),
        ("training is configured with no epochs", ("trainer.max_epochs=0",), set()),
        (
            "there is no batch to train on (`trainer.limit_train_batches=0`)",
            ("trainer.limit_train_batches=0",),
            NEW_RUN,
        ),
    ],
)
def test_settings_that_training_refuses(
    row: str, words: tuple[str, ...], left: set[str], trained: Path, tmp_path: Path
) -> None:
    small = [word.removeprefix("+") for word in SMALL]
    given = [*small, "logger=none", f"data.root={trained / 'images'}", *words]
    fails(row, "train.py", *given, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert left_in(tmp_path) == {f"run/{name}" for name in left}


@pytest.mark.parametrize("closed", ["Benign", "."])
def test_a_class_folder_that_cannot_be_read(closed: str, own: Path, tmp_path: Path) -> None:
    place = own / "images" / closed
    place.chmod(0)
    try:
        line = fails(
            "a class folder or the data root cannot be read",
            "train.py", f"data.root={own / 'images'}", cwd=tmp_path,
        )  # fmt: skip
    finally:
        place.chmod(0o700)
    assert str(place) in line
    assert not left_in(tmp_path / "outputs")


def test_a_mistyped_root(own: Path, tmp_path: Path) -> None:
    line = fails("`data.root` is mistyped", "train.py", f"data.root={own / 'imagse'}", cwd=tmp_path)
    assert f"did you mean '{own / 'images'}'?" in line
    assert [path.name for path in own.iterdir() if path.name.startswith("imag")] == ["images"]
    assert not left_in(tmp_path / "outputs")


@pytest.mark.parametrize(
    "program", [("predict.py", "input=x.png"), ("eval.py",), ("bcd/__main__.py", "compare")]
)
def test_a_checkpoint_without_a_policy(
    program: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    ckpt = trained / "run" / "checkpoints" / "last.ckpt"
    given = f"ckpts=[{ckpt},{ckpt}]" if "compare" in program else f"ckpt={ckpt}"
    row = (
        "eval, predict or compare is given a checkpoint without a decision policy (`last.ckpt`, a "
    )
    row += "killed run's `best.ckpt`)"
    fails(row, *program, given, cwd=tmp_path)
    assert left_in(tmp_path) == {"x.png"}


def replace_one(images: Path) -> None:
    """Replaces the first image by another; the file names stay the same."""
    first, second, *_ = sorted((images / "Pro-B").iterdir())
    first.write_bytes(second.read_bytes() + b"\0")


def exchange(images: Path, run: Path) -> None:
    """Exchanges two images of the test set between their classes."""
    rows = [line.split(",") for line in (run / "split.csv").read_text().splitlines()]
    test = {row[1]: images / row[0] for row in rows if row[-1] == "test"}
    one, two, free = test["Pro-B"], test["Benign"], images.parent / "free"
    one.rename(free)
    two.rename(one)
    free.rename(two)


@pytest.mark.parametrize("how", ["replaced or removed", "exchanged between classes"])
def test_a_run_is_not_resumed_with_other_images(how: str, own: Path, tmp_path: Path) -> None:
    if how == "replaced or removed":
        replace_one(own / "images")
    else:
        exchange(own / "images", own / "run")
    before = {path: path.stat().st_mtime_ns for path in (own / "run").rglob("*")}
    fails(
        f"a run is resumed, and images were {how}",
        "train.py", f"resume={own / 'run'}", f"data.root={own / 'images'}",
        "trainer.max_epochs=3", cwd=tmp_path,
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in (own / "run").rglob("*")} == before


@pytest.mark.parametrize("how", ["replaced or removed", "exchanged between classes"])
def test_eval_warns_about_changed_images(
    how: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"ckpt={own / 'run'}", f"data.root={own / 'images'}", "subset=test"]
    status, (line, *_) = documented(
        f"eval, and images of the test set were {how} since"
        if how == "replaced or removed"
        else f"eval, and images were {how} since"
    )
    assert status == "0"
    evaluate_checkpoint(eval_config(tmp_path / "before", *given))
    assert not re.search(line, capsys.readouterr().err)
    rows = [text.split(",") for text in (own / "run" / "split.csv").read_text().splitlines()]
    if how == "exchanged between classes":
        exchange(own / "images", own / "run")
    else:
        next(own / "images" / row[0] for row in rows if row[-1] == "test").unlink()
    evaluate_checkpoint(eval_config(tmp_path / "after", *given))
    assert re.search(f"^{line}", capsys.readouterr().err, re.M)
