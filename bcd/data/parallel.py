"""Reads many images on all cores.

NumPy holds the interpreter lock for much of the work on an image, so threads leave cores idle. Many
small images are therefore read in forked processes. Large images are read in threads, which share
one bound on the memory in use (`bcd.data.files`).
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import cv2
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.files import Gate, ImageError
from bcd.data.workspace import Workspace
from bcd.errors import BcdError

Item = TypeVar("Item")
Result = TypeVar("Result")

_SMALL = 1 << 20  # pixels
_MANY = 512  # below this number of images, threads finish before processes have started
_CHUNK = 16
_PDEATHSIG = 1  # PR_SET_PDEATHSIG of prctl(2)
_FEW = 64  # number of images above which a progress bar is shown


class LargeImageError(ImageError):
    """An image that is too large to be decoded in one of several processes."""


class SmallOnly(Gate):
    """A gate for processes, which cannot share one bound on memory: it refuses large images."""

    def __init__(self) -> None:
        super().__init__(_SMALL)

    @contextlib.contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Lets a small amount pass.

        Raises:
            LargeImageError: The amount is larger than what counts as a small image.
        """
        if amount > _SMALL:
            raise LargeImageError("to be read in a thread")
        yield


def are_small(catalog: Catalog) -> bool:
    """Whether every image of the catalog is small enough to be read in processes."""
    return all(p.width * p.height <= _SMALL for p in catalog.images)


def uses_processes(count: int) -> bool:
    """Whether `read_each` reads this number of small images in processes."""
    return count >= _MANY and sys.platform == "linux" and (os.cpu_count() or 1) > 1


def read_each(
    read: Callable[[Item], Result], items: Sequence[Item], small: bool, what: str
) -> Iterator[Result]:
    """Yields the result of `read` for each item, in order.

    Args:
        read: A function that can be pickled.
        items: What it is called with.
        small: Whether every image is small, so that processes may read them.
        what: Description for the progress bar.

    Raises:
        BcdError: Raised by `read`, or because a process ended unexpectedly, for example when
            memory ran out.
    """
    from bcd.console import track

    cv2.setNumThreads(0)  # one image per core already keeps all cores busy
    cores = os.cpu_count() or 1
    if small and uses_processes(len(items)):
        forking = multiprocessing.get_context("fork")
        own = (os.getpid(),)
        with ProcessPoolExecutor(cores, forking, _ignore_interruptions, own) as processes:
            found = processes.map(read, items, chunksize=_CHUNK)
            try:
                yield from track(found, what, len(items))
            except BrokenProcessPool as error:
                raise BcdError(
                    f"{what}: a process ended unexpectedly; is there enough memory?"
                ) from error
            finally:
                processes.shutdown(wait=False, cancel_futures=True)
        return
    with ThreadPoolExecutor(cores) as threads:
        found = threads.map(read, items)
        yield from track(found, what, len(items)) if len(items) > _FEW else found


def kept_or_read(
    read: Callable[[tuple[Path, str]], NDArray[Any]],
    files: Mapping[str, Path],
    part: str,
    kept: Workspace | None,
    small: bool,
    what: str,
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yields the number and the row of each image: rows that the scan kept first, then read ones.

    Rows come one by one, as all of them together may be large.

    Args:
        read: Computes the row of an image from its path and sha256; must be picklable.
        files: The images by their sha256; they are numbered in this order.
        part: Name of the rows in the workspace.
        kept: What the scan kept; None for nothing.
        small: As in `read_each`.
        what: As in `read_each`.

    Raises:
        BcdError: As in `read_each`.
    """
    unread: dict[int, tuple[Path, str]] = {}
    for number, (sha256, path) in enumerate(files.items()):
        row = None if kept is None else kept.get(path, sha256, part)
        if row is None:
            unread[number] = path, sha256
        else:
            yield number, row
    if unread:
        yield from zip(unread, read_each(read, list(unread.values()), small, what), strict=True)


def _ignore_interruptions(parent: int) -> None:
    """Leaves an interruption to the parent process, which ends these processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent, signal.SIGKILL)  # they would wait for more work forever


def end_with_parent(parent: int, number: int) -> None:
    """Makes Linux send this process a signal when the process that forked it ends, however.

    Args:
        parent: The process that forked this one.
        number: Of the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, number)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), number)
