"""A trial: one run of a sweep, trained but not tested, which always leaves a record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bcd.cli.app import quick_imports
from bcd.config.check import check_config, first_line
from bcd.config.training import TrainConfig
from bcd.console import say
from bcd.errors import BcdError, foreseen
from bcd.run_folder import RECORD
from bcd.storage import write_text

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
WORST = 0.0  # score of a trial that failed

# Files of an earlier attempt in the same folder that a new attempt would not replace.
_LEFT = (
    "events.out.tfevents.*",
    "metrics.json",
    "audit.json",
    "predictions*.csv",
    "report.html",
    "traceback.txt",
)


@dataclass(frozen=True)
class Trial:
    """The record of a trial.

    Attributes:
        name: Of its folder.
        key: Hash of its configuration; trials with the same key are the same trial.
        overrides: Its overrides, as `key=value`.
        status: `done`, `failed` or `unfinished` (running or killed).
        reason: Why it failed, in one line.
        seconds: Its duration.
        run: Its seed, the split's seed and the fold.
        accuracy: On val.
        loss: On val, the mean negative log-likelihood.
        unsafe: Shares of unsafe answers on val, by the names in `UNSAFE_SHARES`; empty without a
            benign class, None for a share of no images.
        n: Number of val images.
        best: Its best checkpoint, relative to its folder; empty if none was saved.
        steps: Of its optimizer.
        history: Metrics of each epoch.
    """

    name: str
    key: str
    overrides: tuple[str, ...]
    status: str = UNFINISHED
    reason: str = ""
    seconds: float = 0.0
    run: tuple[int, ...] = ()
    accuracy: float = math.nan
    loss: float = math.nan
    unsafe: Mapping[str, float | None] = field(default_factory=dict)
    n: int = 0
    best: str = ""
    steps: int = 0
    history: tuple[Mapping[str, float], ...] = ()

    @property
    def score(self) -> float:
        """The value that a search maximizes: val accuracy, with ties broken by the lower loss.

        The loss contributes less than one image would: exp(-loss), the geometric mean of the
        probabilities of the true classes, is between 0 and 1.
        """
        if self.status != DONE:
            return WORST
        fit = math.exp(-self.loss) if self.loss >= 0 else 0.0
        return self.accuracy + fit / (self.n + 1)


def read_trials(sweep: Path) -> list[Trial]:
    """Reads the trials recorded in a sweep's folder, in the order of their numbers.

    Raises:
        BcdError: A record is damaged.
    """
    found = []
    for file in sweep.glob(f"*/{RECORD}"):
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            plain |= {n: tuple(plain[n]) for n in ("overrides", "run", "history")}
            plain |= {n: math.nan if plain[n] is None else plain[n] for n in ("accuracy", "loss")}
            found.append(Trial(**{**plain, "name": file.parent.name}))
        except (ValueError, LookupError, TypeError) as error:
            raise BcdError(f"{file} is damaged: remove it, and the trial runs again") from error
    return sorted(found, key=lambda t: (not t.name.isdigit(), t.name.zfill(9)))


def trial_key(cfg: DictConfig) -> str:
    """Hash of a trial's configuration, as composed by Hydra."""
    # Not resolved: interpolated values follow from the rest, and the folder must not count.
    return hashlib.sha256(OmegaConf.to_yaml(cfg).encode()).hexdigest()


def run_trial(cfg: DictConfig, sweep: Path, name: str, overrides: Sequence[str]) -> float:
    """Trains one trial, unless it was already trained in the sweep's folder.

    Args:
        cfg: As composed by Hydra; `run_dir` is replaced.
        sweep: Folder of the sweep.
        name: Of the trial's folder, unless another trial has it.
        overrides: Of the command line.

    Returns:
        The score, or `WORST` if the trial failed: only interruptions are raised.
    """
    key = trial_key(cfg)
    known = read_trials(sweep)
    same = next((t for t in known if t.key == key), None)
    if same is not None and same.status == DONE:
        say(f"trial {same.name}: already done")
        _drop_if_empty(sweep / name)
        return same.score
    if same is not None:
        name = same.name
    elif any(t.name == name for t in known):
        name = f"{name}-{key[:8]}"
    trial = Trial(name, key, tuple(overrides))
    folder = sweep / name
    _clear(folder)
    _write(folder, trial)
    started = time.time()
    try:
        done = _train(cfg, folder, trial)
    except Exception as error:
        done = replace(trial, status=FAILED, reason=_reason(error, folder))
    done = replace(done, seconds=round(time.time() - started, 2))
    _write(folder, done)
    summary = f"val accuracy {done.accuracy:.4f}, loss {done.loss:.4f}, {done.seconds:.1f} s"
    say(f"trial {name}: {summary if done.status == DONE else 'failed: ' + done.reason}")
    return done.score


def _train(cfg: DictConfig, folder: Path, trial: Trial) -> Trial:
    cfg = cfg.copy()
    cfg.run_dir = str(folder.absolute())
    with quick_imports():  # only here, because a finished trial needs no imports
        checked = check_config(cfg, TrainConfig)
        from bcd.evaluation.unsafe import UNSAFE_SHARES
        from bcd.training.fit import best_checkpoint
        from bcd.training.run import train
    result = train(checked, tested=False)
    assert result is not None, "a trial runs in one process"
    best = best_checkpoint(result.trainer)
    val = result.metrics["val"]
    return replace(
        trial,
        status=DONE,
        run=(checked.seed, checked.split.seed, checked.split.fold),
        accuracy=val["accuracy"],
        loss=val["loss"],
        unsafe={name: val[name] for name in UNSAFE_SHARES if name in val},
        n=val["n"],
        best="" if best is None else best.relative_to(folder.absolute()).as_posix(),
        steps=result.trainer.global_step,
        history=tuple(result.classifier.history),
    )


def _reason(error: Exception, folder: Path) -> str:
    """Why a trial failed, in one line; the traceback of an unexpected error is saved."""
    if known := foreseen(error):
        if known.status == 130:
            raise KeyboardInterrupt from error
        return str(known)
    write_text(folder / "traceback.txt", traceback.format_exc())
    return f"{type(error).__name__}: {first_line(error)}"


def _write(folder: Path, trial: Trial) -> None:
    plain = {k: None if v != v else v for k, v in asdict(trial).items()}  # JSON has no NaN
    write_text(folder / RECORD, json.dumps(plain, indent=1) + "\n")


def _clear(folder: Path) -> None:
    for pattern in _LEFT:
        for file in folder.glob(pattern):
            file.unlink()


def _drop_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
