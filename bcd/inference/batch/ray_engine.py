"""Predicts with several processes, of this machine or of a cluster, by Ray Data."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.environment import core_count
from bcd.data.items import Answer, Item
from bcd.data.quality.sample import Sample
from bcd.data.sandbox import Readers
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.inference.batch.batching import batch_sizes, batches_until_failure
from bcd.inference.batch.inputs import open_inputs
from bcd.inference.batch.kept import KeptAttributes
from bcd.inference.batch.shards import Shard
from bcd.inference.predictor import Predictor, load_model

_LONGEST = 40  # characters of a temporary folder in which Ray can make its sockets

Pixels = NDArray[np.uint8]
# A prediction, and the pixels of the images that a sample takes.
Told = tuple[Prediction, Pixels | None]


@dataclass(frozen=True)
class Job:
    """What other processes need to know; all of it can be pickled.

    Attributes:
        model: Arguments of `load_model`.
        site: The `site` group as a mapping.
        inputs: As typed.
        column: As for `open_inputs`.
        limit: As for `open_inputs`.
        shard: Which share of the images.
        done: Number of its images that have rows already.
        batch_size: Images at a time.
        part: As for `Predictor.answers`.
        folder: Working folder.
        keep: Keywords of the attributes of DICOM files that rows have.
    """

    model: Mapping[str, Any]
    site: Mapping[str, Any]
    inputs: list[str]
    column: str
    limit: int | None
    shard: Shard
    done: int
    batch_size: int
    part: int | None
    folder: str
    keep: tuple[str, ...] = ()

    def batches(self) -> Iterator[list[tuple[Item, bool]]]:
        """Yields images in batches, and for each image whether its pixels are wanted."""
        os.chdir(self.folder)
        own = self.shard.of(open_inputs(self.inputs, self.column, self.limit).items)
        items = itertools.islice(own, self.done, None)
        sample = Sample()

        def wanted() -> Iterator[tuple[Item, bool]]:
            for item in items:
                yield item, sample.takes_next
                sample.add(None)

        sizes = batch_sizes(self.batch_size, self.part or self.batch_size)
        yield from batches_until_failure(wanted(), sizes)


def predict_with_ray(job: Job, workers: int | None, device: str) -> Iterator[list[Told]]:
    """Yields predictions batch by batch, in the order of the images.

    Ray starts on this machine and listens on the loopback interface only, unless RAY_ADDRESS names
    a cluster, whose machines need bcd and the same files.

    Args:
        job: What to predict.
        workers: Number of processes that hold the model; None for one per GPU, else per core.
        device: As `device` of `bcd predict`; with `auto`, GPUs are used if Ray has any.

    Raises:
        BcdError: Ray is not installed, or a worker failed.
    """
    ray = import_ray()
    with _started(ray, workers):
        gpus = int(ray.cluster_resources().get("GPU", 0)) if device in ("auto", "cuda") else 0
        count = workers or gpus or int(ray.cluster_resources().get("CPU", 1))
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.target_max_block_size = 1  # a block is a batch
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=r"ray\.data")
        batches = ray.data.read_datasource(_source(job), override_num_blocks=1, num_cpus=0)
        answered = batches.map_batches(
            _worker_of(job),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_gpus=1 if gpus else 0,
            num_cpus=0 if gpus else 1,
        )
        try:
            for row in answered.iter_rows():
                yield pickle.loads(row["told"])
        except ray.exceptions.RayError as error:
            raise _expected(error) from error


def import_ray() -> Any:
    """Imports Ray and Ray Data.

    Raises:
        BcdError: It is not installed.
    """
    if not os.environ.get("RAY_ADDRESS"):
        # As on other systems, one machine is then all of the cluster: Ray listens on loopback only.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BcdError("engine=ray: needs a package: pip install 'bcd[ray]'") from error
    return ray


@contextlib.contextmanager
def _started(ray: Any, workers: int | None) -> Iterator[None]:
    """Ray, on a cluster that is there or on this machine alone."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        try:
            yield
        finally:
            ray.shutdown()
        return
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="bcd-ray-", dir=base if len(base) <= _LONGEST else "/tmp")
    try:
        ray.init(
            address="local",
            num_cpus=max(workers or 0, core_count()),
            include_dashboard=False,
            _temp_dir=folder,
            **quiet,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _source(job: Job) -> Any:
    """A data source of one task, which lists the inputs while others predict them."""
    import pyarrow
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def read() -> Iterable[Any]:
        for batch in job.batches():
            yield pyarrow.table({"items": [pickle.dumps(batch)]})

    class Batches(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown = BlockMetadata(
                num_rows=None, size_bytes=None, input_files=None, exec_stats=None
            )
            return [ReadTask(read, unknown)]

    made: Any = Batches
    return made()


class _Worker:
    """Holds the model in a process of Ray."""

    def __init__(self, job: Job) -> None:
        os.chdir(job.folder)
        self._size = job.batch_size
        self._predictor = Predictor(load_model(**job.model), job.site)
        self._readers = Readers(self._predictor.wanted, 1)
        self._kept = KeptAttributes(job.keep, None)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        told = [pickle.dumps(self._predict(pickle.loads(data))) for data in batch["items"]]
        return {"told": np.array(told, dtype=object)}

    def _predict(self, batch: list[tuple[Item, bool]]) -> list[Told]:
        items = self._kept.watch(item for item, _ in batch)
        asked = [(item.name, self._submit(item)) for item in items]
        read = [(name, answer.result()) for name, answer in asked]
        made = list(self._predictor.decide(iter(read), self._size))
        predictions = self._kept.add_to([prediction for prediction, _ in made])
        return [
            (prediction, self._shown(answer) if wanted else None)
            for prediction, (_, answer), (_, wanted) in zip(predictions, made, batch, strict=True)
        ]

    def _submit(self, item: Item) -> Future[Answer]:
        answer = self._readers.submit(item)
        if item.data is not None:
            wait([answer])  # otherwise the bytes of a whole batch would be held
        return answer

    def _shown(self, answer: Pixels | str) -> Pixels | None:
        return None if isinstance(answer, str) else self._predictor.shown(answer)


def _worker_of(job: Job) -> type[_Worker]:
    """The class with its argument, which Ray would otherwise keep where it may be lost."""

    class Worker(_Worker):
        def __init__(self) -> None:
            super().__init__(job)

    return Worker


def _expected(error: Exception) -> BcdError:
    """The expected error behind one of Ray, which has the traceback of the worker as text."""
    known = re.findall(r"^bcd\.errors\.(\w+): (.+)$", str(error), re.MULTILINE)
    if known:
        kind, message = known[-1]
        return ConfigError(message) if kind == ConfigError.__name__ else BcdError(message)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return BcdError(f"engine=ray: {first}")
