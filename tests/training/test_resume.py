"""A run that was interrupted goes on in its folder and ends as if it had not been."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from bcd.cli.overrides import go_on_in_place
from bcd.errors import BcdError, ConfigError
from bcd.models.classifier import SmearClassifier
from bcd.training.resume import resumed_config
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, error_lines, script, train_config

# Two batches an epoch; val is best in one of the first epochs.
COMMON = ("trainer.max_epochs=3", "optimizer.lr=0.02")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resuming") / "images"


def run(images: Path, run_dir: Path, *overrides: str) -> TrainResult:
    cfg = train_config(run_dir, *SMALL, f"data.root={images}", *overrides)
    result = train(cfg)
    assert result is not None
    return result


@contextmanager
def interrupted(epoch: int) -> Iterator[None]:
    """Within, a run is interrupted where an epoch begins."""
    begin = SmearClassifier.on_train_epoch_start

    def stop(self: SmearClassifier) -> None:
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SmearClassifier, "on_train_epoch_start", stop)
        with pytest.raises(BcdError, match="interrupted"):
            yield


def states(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    file = run_dir / "checkpoints" / f"{name}.ckpt"
    content: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return content


DRAWING = ("model.dropout=0.5", "augment.mixup=0.4")  # by chance in every batch
PLANNED = ("scheduler=warmup_cosine", "callbacks=[default,ema]")


@pytest.mark.parametrize(
    ("epoch", "overrides"),
    [
        (1, DRAWING),
        (2, PLANNED),
        pytest.param(1, PLANNED, marks=pytest.mark.exhaustive),
        pytest.param(2, DRAWING, marks=pytest.mark.exhaustive),
    ],
)
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    overrides: tuple[str, ...], epoch: int, images: Path, tmp_path: Path
) -> None:
    words = (*COMMON, *overrides, "callbacks.progress=null")
    whole = run(images, tmp_path / "whole", *words)
    with interrupted(epoch):
        run(images, tmp_path / "part", *words)
    rest = run(images, tmp_path / "part", *words, f"resume={tmp_path / 'part'}")
    assert rest.run_dir == tmp_path / "part"
    assert rest.metrics == whole.metrics
    assert rest.classifier.history == whole.classifier.history
    assert rest.trainer.global_step == whole.trainer.global_step
    for name in ("best", "last"):
        expected, found = states(tmp_path / "whole", name), states(tmp_path / "part", name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
    names = [sorted(f.name for f in (tmp_path / n).iterdir()) for n in ("whole", "part")]
    kept = [[n for n in each if not n.startswith("events")] for each in names]
    assert kept[0] == kept[1]
    before, after = ((tmp_path / n / "config.yaml").read_text() for n in ("whole", "part"))
    assert after.replace(str(tmp_path / "part"), str(tmp_path / "whole")) == before


def test_the_best_epoch_before_the_interruption_is_remembered(images: Path, tmp_path: Path) -> None:
    first_is_best = ("callbacks.best.monitor=epoch", "callbacks.best.mode=min")
    words = (*COMMON, "logger=none", *first_is_best)
    with interrupted(2):
        run(images, tmp_path / "run", *words)
    first = states(tmp_path / "run", "best")
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    run(images, moved, *words, f"resume={moved}")
    assert all(torch.equal(value, states(moved, "best")[name]) for name, value in first.items())
    assert torch.load(moved / "checkpoints/best.ckpt", weights_only=True)["card"]["policy"]
    assert sorted(path.name for path in moved.glob("checkpoints/*")) == ["best.ckpt", "last.ckpt"]


def test_a_finished_run_is_left_as_it_is(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(images, folder, "logger=none")
    before = {path: path.stat() for path in folder.rglob("*")}
    with pytest.raises(BcdError, match=r"the run has 2 of 2 epochs; raise trainer") as caught:
        run(images, folder, "logger=none", f"resume={folder}")
    assert caught.value.status == 1
    after = {path: path.stat() for path in folder.rglob("*")}
    assert {p: (s.st_ino, s.st_mtime_ns) for p, s in before.items()} == {
        p: (s.st_ino, s.st_mtime_ns) for p, s in after.items()
    }


def test_a_run_that_was_killed_before_its_test_is_tested(images: Path, tmp_path: Path) -> None:
    whole = run(images, tmp_path / "run", "logger=none")
    report = (tmp_path / "run" / "report.html").read_text()
    for name in ("metrics.json", "report.html", "run.json", "predictions.csv"):
        (tmp_path / "run" / name).unlink()
    rest = run(images, tmp_path / "run", "logger=none", f"resume={tmp_path / 'run'}")
    assert rest.metrics == whole.metrics
    assert (tmp_path / "run" / "report.html").read_text() == report


def test_a_fitted_run_that_was_killed_before_its_test_is_tested(
    images: Path, tmp_path: Path
) -> None:
    words, folder = ("logger=none", "head=forest", "model.unfreeze=0"), tmp_path / "run"
    whole = run(images, folder, *words)
    before = {name: states(folder, name) for name in ("best", "last")}
    with pytest.raises(BcdError, match="head=forest was fitted and tested"):
        run(images, folder, *words, f"resume={folder}")
    for name in ("metrics.json", "report.html", "run.json", "predictions.csv"):
        (folder / name).unlink()
    rest = run(images, folder, *words, f"resume={folder}")
    assert rest.metrics == whole.metrics
    assert rest.classifier.history == whole.classifier.history
    for name, expected in before.items():
        found = states(folder, name)
        assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_more_epochs_go_on_where_a_run_ended(images: Path, tmp_path: Path) -> None:
    whole = run(images, tmp_path / "whole", *COMMON)
    run(images, tmp_path / "part", *COMMON, "trainer.max_epochs=2")
    report = tmp_path / "part" / "report.html"
    assert "The run evaluated its test set once" in report.read_text()
    assert "<td>epochs</td><td>2, batches" in report.read_text()
    rest = run(images, tmp_path / "part", *COMMON, f"resume={tmp_path / 'part'}")
    assert rest.metrics == whole.metrics
    assert "not the first use of its test set" in report.read_text()
    assert "test set once" not in report.read_text()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("optimizer.lr=0.5", r"optimizer\.lr=0\.5: the run .* has 0\.005"),
        ("split.seed=7", r"split\.seed=7: the run .* has 0"),
        ("model.input_size=64", r"model\.input_size=64: .* has 48"),
        ("+optimizer.amsgrad=true", r"optimizer\.amsgrad=True: .* has None"),
        ("features.engine=int8", r"features\.engine=int8: .* of features\.engine=auto"),
        ("data.generate.count=60", r"data\.generate\.count=60: .* has 48"),
    ],
)
def test_another_configuration_is_refused(
    override: str, part: str, finished: Path, images: Path
) -> None:
    with pytest.raises(ConfigError, match=part):
        run(images, finished, override, f"resume={finished}")


@pytest.fixture(scope="module")
def finished(images: Path) -> Path:
    return run(images, images.parent / "finished", "logger=none").run_dir


def test_a_schedule_does_not_go_on_after_its_end(images: Path, tmp_path: Path) -> None:
    words = ("scheduler=cosine", "logger=none")
    run(images, tmp_path / "run", *words)
    with pytest.raises(ConfigError, match="scheduler was made for 2 epochs"):
        run(images, tmp_path / "run", *words, "trainer.max_epochs=4", f"resume={tmp_path / 'run'}")


def test_the_runs_own_configuration_is_taken_with_what_is_changed(
    finished: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    overrides = [f"resume={moved}", "trainer.max_epochs=9", "+trainer.limit_val_batches=1.0"]
    overrides += ["callbacks.last=null"]
    from hydra import compose, initialize_config_dir

    from tests.helpers.harness import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={moved}", *overrides])
    merged = resumed_config(cfg, overrides)
    recorded = OmegaConf.load(finished / "config.yaml")
    assert merged.model == recorded.model and merged.data == recorded.data
    assert merged.trainer.max_epochs == 9 and merged.trainer.limit_val_batches == 1.0
    assert merged.callbacks.last is None and merged.callbacks.progress is None
    assert merged.callbacks.best.dirpath == f"{moved}/checkpoints"
    assert merged.run_dir == str(moved)


def test_hydra_is_given_the_runs_own_folder(finished: Path) -> None:
    own = f"hydra.run.dir={finished}"
    for resume in (f"resume={finished}", f"resume={finished}/checkpoints/last.ckpt"):
        assert go_on_in_place([resume]) == [resume, own]
        assert go_on_in_place([resume, own]) == [resume, own]
        with pytest.raises(ConfigError, match="continues in its own folder"):
            go_on_in_place([resume, "hydra.run.dir=elsewhere"])
    assert go_on_in_place(["seed=1"]) == ["seed=1"]


def test_names_with_a_meaning_do_not_lead_a_run_elsewhere(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("null", "quote'"):
        shutil.copytree(finished, tmp_path / name)
    assert go_on_in_place(["resume=null"]) == ["resume=null"]  # a new run, as Hydra reads it
    assert go_on_in_place(["resume=quote'"])[1:] == [f"hydra.run.dir={tmp_path}/quote'"]


def test_resume_alone_suffices_on_the_command_line(finished: Path, tmp_path: Path) -> None:
    own = tmp_path / "a run"
    shutil.copytree(finished, own)
    (own / "metrics.json").unlink()  # as if it had been killed
    done = script("train.py", f"resume={own}", "trainer.max_epochs=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "outputs").exists()
    assert len(json.loads((own / "metrics.json").read_text())["test"]) > 3
    assert "max_epochs: 3" in (own / "config.yaml").read_text()
    again = script("train.py", f"resume={own}", cwd=tmp_path)
    assert again.returncode == 1
    (line,) = error_lines(again)
    assert "nothing left to train: the run has 3 of 3 epochs" in line
    nowhere = script("train.py", f"resume={tmp_path}/none", cwd=tmp_path)
    assert nowhere.returncode == 1
    assert "nothing to resume from" in error_lines(nowhere)[0]
    assert not any((tmp_path / "outputs").rglob("*.*"))


def test_a_trial_of_a_sweep_is_not_resumed_alone(finished: Path, tmp_path: Path) -> None:
    own = tmp_path / "0"
    shutil.copytree(finished, own)
    (own / "trial.json").write_text("{}")
    before = (own / "checkpoints" / "best.ckpt").read_bytes()
    done = script("train.py", f"resume={own}", "trainer.max_epochs=4", cwd=tmp_path)
    assert done.returncode == 1
    assert "leaderboard would become wrong" in error_lines(done)[0]
    assert (own / "checkpoints" / "best.ckpt").read_bytes() == before


def test_tensorboard_goes_on_in_the_same_folder(images: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with interrupted(2):
        run(images, tmp_path / "run", *COMMON)
    run(images, tmp_path / "run", *COMMON, f"resume={tmp_path / 'run'}")
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    # Two files of one second and one process are read in the order of their names.
    scalars = sorted(events.Scalars("val/loss"), key=lambda event: event.wall_time)
    steps = [event.step for event in scalars]
    assert len(steps) == 3 and steps == sorted(set(steps))
