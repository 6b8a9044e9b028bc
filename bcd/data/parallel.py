"""Reads many images on all cores.

What is computed of an image in numpy holds the interpreter's lock much of the time, so threads
leave cores idle. Images that are small and many are therefore read in forked processes; large ones
in threads, which share one bound on the memory that is in flight (`bcd.data.files`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import cv2

from bcd.data.catalog import Catalog
from bcd.errors import BcdError

Result = TypeVar("Result")

_SMALL = 1 << 20  # pixels
_MANY = 512  # fewer are read before processes would have started
_CHUNK = 16
_FEW = 64  # images from which on a progress bar is worth its line


def are_small(catalog: Catalog) -> bool:
    """Whether no image of the catalog is so large that the memory for it must be shared."""
    return all(p.width * p.height <= _SMALL for p in catalog.images)


def read_each(
    read: Callable[[Path, str], Result], paths: Mapping[str, Path], small: bool, what: str
) -> Iterator[Result]:
    """Yields what `read` gives of each file, given by its sha256, in order.

    Args:
        read: A function of a module, of a path and its sha256.
        paths: The files.
        small: That of `are_small`.
        what: Is done, for the progress bar.

    Raises:
        BcdError: That of `read`; or a process ended, as where memory is short.
    """
    from bcd.console import track

    cv2.setNumThreads(0)  # the images fill the cores
    cores = os.cpu_count() or 1
    if small and cores > 1 and len(paths) >= _MANY and sys.platform == "linux":
        forking = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(cores, forking, _ignore_interruptions) as processes:
            found = processes.map(read, paths.values(), paths, chunksize=_CHUNK)
            try:
                yield from track(found, what, len(paths))
            except BrokenProcessPool as error:
                raise BcdError(f"{what}: a process ended early; is memory short?") from error
            finally:
                processes.shutdown(wait=False, cancel_futures=True)
        return
    with ThreadPoolExecutor(cores) as threads:
        found = threads.map(read, paths.values(), paths)
        yield from track(found, what, len(paths)) if len(paths) > _FEW else found


def _ignore_interruptions() -> None:
    """An interruption is for the parent, which ends these processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
