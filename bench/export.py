"""Compares exported files in float32, float16 and int8 with each other and with their checkpoint.

python -m bench.export ckpt=<run> [data=<where its images are now>] [rounds=30] [images=500]

Speed is the processor time of one image of the network's size in a session of one thread, the
median of rounds in which the files alternate. Accuracy, unsafe answers and referral are of the
run's test set. The comparison with the checkpoint is on test images in other sizes and formats:
what `bcd predict` says with each, and the graph alone with the decoded image.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import bcd
from bcd.config.compose import read_defaults
from bcd.config.export import PRECISIONS, ExportConfig, ExportDataConfig
from bcd.data.reading import read_image
from bcd.evaluation.decision import DecisionPolicy
from bcd.export.build import onnx_answer
from bcd.export.measure import Measured, measure
from bcd.export.module import prepares_in_graph
from bcd.export.policy import REASONS
from bcd.export.run import export
from bcd.export.run_images import RunImages
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.run_folder import find_checkpoint
from bench.measure import machine

_FORMATS = ("png", "jpg", "bmp", "tif", "webp")


def main() -> None:
    """Measures, and prints Markdown tables."""
    asked = dict(word.split("=", 1) for word in sys.argv[1:])
    data = ExportDataConfig(asked.get("data"), None)
    card = load_checkpoint(find_checkpoint(asked["ckpt"]))[1]
    images = RunImages(_config(asked["ckpt"], data, "float32", Path("model.onnx")), card)
    test = images.indices("test")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = [_export(asked["ckpt"], data, kind, work / f"{kind}.onnx") for kind in PRECISIONS]
        times = _times(files, next(images.read(test[:1])), int(asked.get("rounds", 30)))
        answers = [onnx_answer(file.read_bytes()) for file in files]
        policy = DecisionPolicy.from_plain(card.policy)
        found = measure(answers, images, test, policy)
        print(f"{machine()}; test: {len(test)} images\n")
        print("| | MB | ms | | accuracy | unsafe | referred |\n|---|---:|---:|---:|---:|---:|---:|")
        for row in zip(PRECISIONS, files, times, found, strict=True):
            print(_row(*row, times[0]))
        sources = [images.catalog.root / images.catalog.images[i].path for i in test]
        written = _encode(sources, int(asked.get("images", 500)), work / "images")
        _compare(files[0], asked["ckpt"], card, written)


def _export(ckpt: str, data: ExportDataConfig, precision: str, file: Path) -> Path:
    return export(_config(ckpt, data, precision, file))


def _config(ckpt: str, data: ExportDataConfig, precision: str, file: Path) -> ExportConfig:
    given = {**read_defaults("export"), "ckpt": ckpt, "data": data, "output": str(file)}
    given["precision"] = precision
    return ExportConfig(**{field.name: given[field.name] for field in fields(ExportConfig)})


def _times(files: Sequence[Path], image: Any, rounds: int) -> list[float]:
    """Processor milliseconds of an image with each file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for file in files
    ]
    taken: list[list[float]] = [[] for _ in files]
    for _ in range(rounds + 1):
        for session, own in zip(sessions, taken, strict=True):
            name = session.get_inputs()[0].name
            started = time.thread_time()
            for _ in range(4):
                session.run(None, {name: image})
            own.append((time.thread_time() - started) * 1e3 / 4)
    return [statistics.median(own[1:]) for own in taken]  # the first one warms up


def _row(name: str, file: Path, taken: float, found: Measured, first: float) -> str:
    unsafe = "" if found.unsafe is None else str(found.unsafe.sum())
    size = file.stat().st_size / 1e6
    return (
        f"| {name} | {size:.1f} | {taken:.2f} | x {first / taken:.2f} | {found.accuracy:.2%} | "
        f"{unsafe} | {found.refer.mean():.2%} |"
    )


def _encode(sources: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """Writes images again with sides of 100 to 1000 pixels, of any ratio, in several formats."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    written = []
    for number in range(count):
        image = Image.open(sources[number % len(sources)]).convert("RGB")
        width, height = np.exp(rng.uniform(np.log(100), np.log(1000), 2)).astype(int).tolist()
        file = folder / f"{number:04d}.{_FORMATS[number % len(_FORMATS)]}"
        image.resize((width, height), Image.Resampling.BICUBIC).save(file)
        written.append(file)
    return written


def _compare(model: Path, ckpt: str, card: Card, files: Sequence[Path]) -> None:
    """Prints how far an exported file is from its checkpoint."""
    paths = [str(file) for file in files]
    expected, own = (bcd.load(str(given)).predict(paths) for given in (ckpt, model))
    graph = onnx_answer(model.read_bytes())
    print(f"\nThe checkpoint against the float32 file, {len(files)} images:\n")
    print("| | largest difference | same class | same referral and reasons |\n|---|---:|---:|---:|")
    rows = [("bcd predict", [_of_record(row, card) for row in own])]
    if prepares_in_graph(card.input_views):
        rows.append(("the graph alone", [_of_graph(graph(read_image(f)[None])) for f in files]))
    wanted = [_of_record(row, card) for row in expected]
    for name, found in rows:
        far = max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(found, wanted, strict=True))
        same = [a[0].argmax() == b[0].argmax() for a, b in zip(found, wanted, strict=True)]
        referred = [a[1] == b[1] for a, b in zip(found, wanted, strict=True)]
        print(f"| {name} | {far:.1e} | {sum(same)} | {sum(referred)} |")


def _of_record(row: dict[str, Any], card: Card) -> tuple[Any, tuple[str, ...]]:
    reasons = tuple(part for part in row["reason"].split("; ") if part)
    return np.array([row[f"p_{name}"] for name in card.classes], np.float64), reasons


def _of_graph(outputs: Any) -> tuple[Any, tuple[str, ...]]:
    given = zip(REASONS, outputs["reasons"][0], strict=True)
    return outputs["probabilities"][0], tuple(name for name, one in given if one)


if __name__ == "__main__":
    main()
