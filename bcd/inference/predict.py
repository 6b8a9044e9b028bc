"""Predicts images with a checkpoint and writes a row for each: one file, or a folder of parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcd.config.input_views import CELLS
from bcd.config.programs import PredictConfig
from bcd.console import say, track
from bcd.data.dicom.keeping import check_keep
from bcd.data.items import Item
from bcd.data.quality.appearance import summarize
from bcd.errors import ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.inference.batch.folder import PartsFolder
from bcd.inference.batch.inputs import open_inputs
from bcd.inference.batch.kept import KeptAttributes
from bcd.inference.batch.manifest import damaged, manifest_name
from bcd.inference.batch.settings import model_facts, row_settings
from bcd.inference.batch.shards import Shard, find_shard, take_own_gpu, tell_shard
from bcd.inference.batch.tally import Tally
from bcd.inference.batch.target import Target, find_target
from bcd.inference.dicom_objects import Each, check_writable, writing_objects
from bcd.inference.predictor import Predictor, load_model
from bcd.inference.row_writer import RowWriter
from bcd.inference.site import describe_match, tell_differences

if TYPE_CHECKING:
    from bcd.inference.explanations import Explanations


def predict(cfg: PredictConfig, each: Each | None = None) -> Tally:
    """Predicts the images of `input`, writes a row for each, and prints a summary.

    Rows in one file are written when they are computed; those in a folder, part by part.

    Args:
        cfg: Checked configuration.
        each: Called with every prediction, in order; after its row is written, or in a folder
            before its part is noted.

    Returns:
        Counts only, so that memory does not grow with the number of images.

    Raises:
        BcdError: No checkpoint, none with a decision policy, no such input, or an output that
            cannot be written or belongs to something else.
    """
    inputs = [cfg.input] if isinstance(cfg.input, str) else cfg.input
    if not isinstance(inputs, list) or not all(isinstance(i, str) for i in inputs) or not inputs:
        raise ConfigError(
            "input is missing: give input=<file, folder, glob, list or archive>, or input=[a,b]"
        )
    target = find_target(cfg)
    tell_shard(cfg.shard, find_shard(cfg.shard))
    check_keep(cfg.dicom.keep)
    _check_engine(cfg)
    if cfg.dicom.output is not None:
        check_writable(cfg.dicom.output, inputs)
    opened = open_inputs(inputs, cfg.input_column, cfg.limit)
    if target.folder:
        return _predict_into_folder(cfg, inputs, target, opened.items, opened.total, each)
    return _predict_into_file(cfg, inputs, target.path, opened.items, opened.total, each)


def _check_engine(cfg: PredictConfig) -> None:
    if cfg.engine == "local":
        if cfg.workers is not None:
            say("warning: workers has no effect with engine=local")
        return
    for key, value in (("explain", cfg.explain), ("dicom.output", cfg.dicom.output)):
        if value:
            raise ConfigError(f"{key}={value}: needs engine=local")
    from bcd.inference.batch.ray_engine import import_ray

    import_ray()


def _predict_into_file(
    cfg: PredictConfig,
    inputs: list[str],
    file: Path,
    items: Iterator[Item],
    total: int | None,
    each: Each | None,
) -> Tally:
    with RowWriter(file) as rows, ExitStack() as stack:
        predictor = _predictor(cfg)
        pictures = None
        keep = check_keep(cfg.dicom.keep)
        if cfg.explain:
            shown = _all_files(items)
            items, total = iter(shown), len(shown)
            pictures = _pictures(cfg, predictor, file, [Path(item.name) for item in shown])
        tally = Tally(predictor.classes)
        items, each = stack.enter_context(writing_objects(cfg, predictor, items, each, tally))
        rows.begin(predictor.classes, pictures is not None, keep)
        if pictures is None:
            work = _Work(inputs, items, Shard(), 0, None)
            made = track(_batches(cfg, predictor, work), "Predicting", total, len)
        else:
            explained = _explained(cfg, predictor, pictures, items)
            made = track(explained, "Predicting and explaining", total, len)
        for batch in made:
            rows.write(batch)
            for prediction in batch:
                tally.add(prediction)
                if each is not None:
                    each(prediction)
    tally.show(file)
    if pictures is not None:
        _tell_pictures(pictures, predictor.facts.input_views[0].roi == CELLS)
    _tell_predictor(predictor)
    return tally


def _predict_into_folder(
    cfg: PredictConfig,
    inputs: list[str],
    target: Target,
    items: Iterator[Item],
    total: int | None,
    each: Each | None,
) -> Tally:
    shard = find_shard(cfg.shard)
    own, count = shard.of(items), shard.share(total)
    model, settings = model_facts(cfg), row_settings(cfg, inputs, target, shard)
    folder = PartsFolder(target.path, shard, target.form, cfg.part_rows, model, settings)
    with folder, ExitStack() as stack:
        folder.pass_over(own)
        done = folder.manifest
        if done.finished:
            assert done.tally is not None
            say(f"finished before: {done.rows} rows in {len(done.parts)} parts, nothing to do")
            if cfg.dicom.output is not None:
                say("DICOM objects are not written again: give another output=<folder> for that")
            tally = Tally.from_plain(done.tally)
            tally.show(target.path)
            return tally
        take_own_gpu(shard)
        predictor = _predictor(cfg)
        done.card_sha256 = predictor.facts.card_sha256
        tally = Tally(predictor.classes)
        if done.tally is not None:
            tally = Tally.from_plain(done.tally)
            if list(tally.classes) != list(predictor.classes):
                raise damaged(target.path / manifest_name(shard))
        if done.rows:
            say(f"continued: {done.rows} rows in {len(done.parts)} parts are there already")
        left = None if count is None else max(0, count - done.rows)
        writing = writing_objects(cfg, predictor, own, each, tally, continued=True)
        own, each = stack.enter_context(writing)
        work = _Work(inputs, own, shard, done.rows, cfg.part_rows)
        rows = _batches(cfg, predictor, work)
        folder.write(track(rows, "Predicting", left, len), tally, each)
    tally.show(target.path)
    _tell_predictor(predictor)
    return tally


def _model_arguments(cfg: PredictConfig) -> dict[str, Any]:
    """Arguments of `load_model`."""
    names = ("ckpt", "model", "verify", "uncalibrated", "device")
    return {name: getattr(cfg, name) for name in names}


def _predictor(cfg: PredictConfig) -> Predictor:
    """The model in this process; with Ray it says only what it is, and others compute."""
    arguments = _model_arguments(cfg)
    if cfg.engine != "local":
        arguments["device"] = "cpu"
    return Predictor(load_model(**arguments), cfg.site)


@dataclass(frozen=True)
class _Work:
    """Which images are to be predicted.

    Attributes:
        inputs: As typed.
        items: What they refer to, of this shard and without those that have rows.
        shard: Which share of the images.
        done: Number of its images that have rows.
        part: Number of rows of a part.
    """

    inputs: list[str]
    items: Iterator[Item]
    shard: Shard
    done: int
    part: int | None


def _batches(cfg: PredictConfig, predictor: Predictor, work: _Work) -> Iterator[list[Prediction]]:
    if cfg.engine == "local":
        with KeptAttributes(check_keep(cfg.dicom.keep), cfg.num_workers) as kept:
            items = kept.watch(work.items)
            for batch in predictor.answers(items, cfg.batch_size, cfg.num_workers, work.part):
                yield kept.add_to([prediction for prediction, _ in batch])
        return
    from bcd.inference.batch.ray_engine import Job, predict_with_ray

    job = Job(
        model=_model_arguments(cfg),
        site=asdict(cfg.site),
        inputs=work.inputs,
        column=cfg.input_column,
        limit=cfg.limit,
        shard=work.shard,
        done=work.done,
        batch_size=cfg.batch_size,
        part=work.part,
        folder=str(Path.cwd()),
        keep=check_keep(cfg.dicom.keep),
    )
    for told in predict_with_ray(job, cfg.workers, cfg.device):
        for _, pixels in told:
            predictor.sample.add(pixels)
        yield [prediction for prediction, _ in told]


def _explained(
    cfg: PredictConfig, predictor: Predictor, pictures: Explanations, items: Iterator[Item]
) -> Iterator[list[Prediction]]:
    with KeptAttributes(check_keep(cfg.dicom.keep), cfg.num_workers) as kept:
        for batch in predictor.answers(kept.watch(items), cfg.batch_size, cfg.num_workers):
            yield kept.add_to(pictures.draw(batch))


def _all_files(items: Iterator[Item]) -> list[Item]:
    shown = []
    for item in items:
        if item.data is not None:
            raise ConfigError("explain: is for files; members of an archive get no pictures")
        shown.append(item)
    return shown


def _pictures(
    cfg: PredictConfig, predictor: Predictor, file: Path, paths: list[Path]
) -> Explanations:
    from bcd.inference.checkpoint_model import CheckpointModel
    from bcd.inference.explanations import Explanations

    assert isinstance(predictor.model, CheckpointModel)  # as checked with the configuration
    method = cfg.explain if isinstance(cfg.explain, str) else "auto"
    return Explanations(predictor.model, method, file, paths)


def _tell_predictor(predictor: Predictor) -> None:
    for line in describe_match(predictor.match):
        say(line)
    tell_differences(predictor.facts, summarize(predictor.looks), predictor.match)
    if predictor.facts.recalibration is not None:
        say(f"recalibrated for {predictor.facts.recalibration['site']}, for its images only")
    if not predictor.facts.calibrated:
        say("warning: uncalibrated: nothing was decided on val, so every image is referred")


def _tell_pictures(pictures: Explanations, of_cells: bool) -> None:
    if not pictures.written:
        return
    say(f"explanations ({pictures.method}): {pictures.written} in {pictures.folder}")
    if pictures.empty:
        why = "no place speaks for the predicted class"
        if of_cells:
            why += ", or no white cell was found"
        say(f"warning: explanations without any evidence: {pictures.empty} ({why})")
