"""What evaluations refuse and warn of before they read anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcd.config.compose import with_defaults
from bcd.config.programs import CompareConfig
from bcd.errors import BcdError
from bcd.inference import parts
from bcd.inference.compare import compare_checkpoints
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.inference.recalibrate import recalibrate_checkpoint
from tests.helpers.harness import eval_config


@pytest.mark.parametrize("program", ["eval", "recalibrate", "compare"])
def test_results_of_a_training_run_are_not_overwritten(program: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(BcdError, match="is the folder of a training run, whose results"):
        if program == "eval":
            evaluate_checkpoint(eval_config(tmp_path, "ckpt=x"))
        elif program == "recalibrate":
            recalibrate_checkpoint(eval_config(tmp_path, "ckpt=x", "recalibrate=x.csv"))
        else:
            cfg = with_defaults(CompareConfig, ckpts=["a", "b"], run_dir=str(tmp_path))
            compare_checkpoints(cfg)


def test_settings_without_effect_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = {"min_sensitivity": "min_sensitivity=0.7"}
    monkeypatch.setattr(parts, "command_line", lambda: typed)
    parts.warn_of_idle(eval_config(tmp_path, "ckpt=x"))
    assert "min_sensitivity=0.7 has no effect without recalibrate" in capsys.readouterr().err
    parts.warn_of_idle(eval_config(tmp_path, "ckpt=x", "recalibrate=x.csv"))
    assert capsys.readouterr().err == ""
    parts.warn_of_idle(eval_config(tmp_path, "ckpt=x", "recalibrate=x.csv", "subset=all"))
    assert "subset=all has no effect with recalibrate" in capsys.readouterr().err
