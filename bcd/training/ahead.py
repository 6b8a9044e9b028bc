"""What a run needs of its images besides the network, computed in a second process meanwhile.

Importing torch and lightning takes seconds on one core. A process that was forked before it reads
and splits the images during that time, then audits them while the network runs. The results are
those that the run would compute itself, as it does where there is no such process, or where it
ended unexpectedly.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import reduction
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from bcd.audit.brief import audit_training_run
from bcd.audit.checks import Check
from bcd.audit.pairs import overlap_sheet
from bcd.config.environment import core_count
from bcd.config.schema import DataConfig, ModelConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.parallel import end_with_parent
from bcd.data.quality.appearance import kept_sides
from bcd.data.quality.profile import DataProfile, profile_images
from bcd.data.splits.split import Split, make_split
from bcd.data.workspace import Workspace
from bcd.errors import BcdError
from bcd.storage import typed_path

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")


class Images(NamedTuple):
    """The images of a run, what is known of them, and their split."""

    catalog: Catalog
    profile: DataProfile
    split: Split


@dataclass(frozen=True)
class Asked:
    """The settings that decide which images are used and how.

    Attributes:
        data: The `data` group.
        split: The `split` group.
        sides: In pixels, of the images that are kept for later steps.
    """

    data: DataConfig
    split: SplitConfig
    sides: tuple[int, ...]

    @classmethod
    def of(cls, data: DataConfig, split: SplitConfig, model: ModelConfig) -> Asked:
        """Of the groups of a configuration."""
        return cls(data, split, tuple(kept_sides(model.input_views())))

    def images(self) -> Images:
        """Reads and splits the images.

        Raises:
            BcdError: The images are not available or cannot be split.
        """
        catalog = load_catalog(self.data, keep=self.sides)
        profile = profile_images(catalog)
        return Images(catalog, profile, make_split(catalog, self.split, profile))

    def checks(self, images: Images) -> list[Check]:
        """The brief audit."""
        catalog, profile, split = images
        return audit_training_run(catalog, split, profile, self.split, self.data)


class _EndedError(Exception):
    """The second process gave no result."""


class Ahead:
    """A second process at work: it reads, splits and audits the images, then does other jobs.

    Args:
        asked: The settings.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._waiting: SimpleQueue[Future[Any]] = SimpleQueue()
        self._images: Future[Images] = Future()
        self._checks: Future[list[Check]] = Future()
        self._sheet: Future[bytes | None] = Future()
        for future in (self._images, self._checks, self._sheet):
            self._waiting.put(future)
        forking = multiprocessing.get_context("fork")
        self._connection, theirs = forking.Pipe()
        self._process = forking.Process(
            target=_work, args=(asked, theirs, self._connection, os.getpid())
        )
        self._process.start()
        theirs.close()
        threading.Thread(target=self._receive, daemon=True).start()

    def images(self) -> Images:
        """The images, as soon as they are known.

        Raises:
            BcdError: As `Asked.images`.
        """
        return _result(self._images, self.asked.images)

    def checks(self, images: Images) -> list[Check]:
        """The brief audit of the images."""
        return _result(self._checks, lambda: self.asked.checks(images))

    def sheet(self, images: Images) -> bytes | None:
        """The sheet of `overlap_sheet`."""
        return _result(self._sheet, lambda: overlap_sheet(*images))

    def begin(self, job: Callable[[], T]) -> Callable[[], T]:
        """Begins a job in the second process; returns what waits for its result.

        Args:
            job: A `partial` that can be pickled, of a function in a module that does not import
                torch.
        """
        future: Future[T] = Future()
        content = reduction.ForkingPickler.dumps(job)
        self._waiting.put(future)
        with contextlib.suppress(OSError):  # it has ended, as the receiving thread finds as well
            self._connection.send_bytes(content)
        return partial(_result, future, job)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()

    def _receive(self) -> None:
        in_step = True
        while True:
            future = self._waiting.get()
            try:
                if not in_step:  # the next message may be the answer to another question
                    raise _EndedError
                found = self._connection.recv()
                if isinstance(found, Images):
                    found = self._with_workspace(found)
            except Exception:  # whatever it is, the run computes the result itself
                in_step = False
                future.set_exception(_EndedError())
                continue
            if isinstance(found, BcdError):
                future.set_exception(found)
            else:
                future.set_result(found)

    def _with_workspace(self, images: Images) -> Images:
        state = self._connection.recv()
        if state is None:
            return images
        kept = Workspace.attached(reduction.recv_handle(self._connection), state)
        return images._replace(catalog=replace(images.catalog, kept=kept))


def _result(future: Future[T], otherwise: Callable[[], T]) -> T:
    try:
        return future.result()
    except _EndedError:
        return otherwise()


def _work(asked: Asked, connection: Any, other: Any, parent: int) -> None:
    """The second process: sends each result, or the error that a user can mend, and ends."""
    other.close()  # so that this end is told when the other process ends
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    signal.signal(signal.SIGTERM, _end)
    end_with_parent(parent, signal.SIGTERM)
    try:
        images = asked.images()
        kept = images.catalog.kept
        connection.send(images._replace(catalog=replace(images.catalog, kept=None)))
        connection.send(None if kept is None else kept.state())
        if kept is not None:
            reduction.send_handle(connection, kept.slots.descriptor, parent)
        connection.send(asked.checks(images))
        connection.send(overlap_sheet(*images))
        while True:
            connection.send(connection.recv()())
    except BcdError as error:
        with contextlib.suppress(OSError):
            connection.send(error)
    except Exception:  # the first process meets the same and reports it
        return


def _end(*_: object) -> None:
    """Ends this process and those that it started, at once: what they write is written whole."""
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(1)


@contextlib.contextmanager
def reading_ahead(cfg: DictConfig) -> Iterator[Ahead | None]:
    """Starts the second process, where this is possible and of use, and ends it with the block.

    Args:
        cfg: As composed by Hydra, not yet checked: what is wrong with it is left to the caller.
    """
    ahead = _start(cfg)
    try:
        yield ahead
    finally:
        if ahead is not None:
            ahead.close()


def _start(cfg: DictConfig) -> Ahead | None:
    from bcd.config.check import check_config

    several = core_count() > 1 and not os.environ.get("LOCAL_RANK")
    # Forking a process with torch's threads is not safe.
    if sys.platform != "linux" or not several or "torch" in sys.modules:
        return None
    try:
        data = check_config(cfg.data, DataConfig)
        split = check_config(cfg.split, SplitConfig)
        model = check_config(cfg.model, ModelConfig)
    except BcdError:
        return None
    # Nothing is downloaded or generated before the whole configuration has been checked.
    if data.generate is not None or not typed_path(data.root).exists():
        return None
    return Ahead(Asked.of(data, split, model))
