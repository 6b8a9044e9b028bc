"""Starts programs from a process that has imported the large packages already.

A Python process of its own spends seconds on importing torch, Lightning and torchvision before it
does anything. Here one server does that once and forks; a program started from it has its own
arguments, environment, folder, streams and exit status, as if it had been started by its command.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

# In the order in which the programs import them: bcd sets what others read while imported. Without
# the modules of bcd and what it imports where it is needed, a program takes half a second longer.
_LARGE = [
    *("bcd", "torch", "lightning", "torchmetrics", "torchvision", "albumentations", "hydra"),
    *("bcd.training.run", "bcd.release.run", "bcd.inference.predict", "bcd.inference.compare"),
    *("bcd.audit.run", "bcd.training.ahead", "bcd.training.resume", "torch.utils.tensorboard"),
    *("sklearn.cluster", "sklearn.linear_model", "sklearn.metrics", "sklearn.model_selection"),
    *("hydra._internal.hydra", "matplotlib.backends.backend_svg"),
]

CAN_FORK = sys.platform == "linux"


def forking() -> ForkServerContext:
    """Starts processes that have the large packages; the first who does it settles it for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LARGE)
    return context


def run_forked(
    words: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float,
    prepare: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python <words>`, a script or `-m` and a module, and returns what it said.

    Args:
        words: The command without the interpreter; a script by its whole path.
        cwd: Folder that the program runs in.
        environment: All of its environment variables.
        timeout: Seconds.
        prepare: Called in the new process before the program.

    Raises:
        subprocess.TimeoutExpired: It took longer than `timeout` seconds and was killed.
    """
    context = forking()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        given = (list(words), str(cwd), dict(environment), str(out), str(err), prepare)
        process = context.Process(target=_run, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout, _text(out), _text(err))
        status = process.exitcode
        process.close()
        return subprocess.CompletedProcess(list(words), status, _text(out), _text(err))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def give_up_rights() -> None:
    """Leaves root without its right to read what nobody may read; another user is as before."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0


def limit_files(size: int) -> None:
    """Lets no file grow beyond `size` bytes: the same as a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _run(
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    out: str,
    err: str,
    prepare: Callable[[], None] | None,
) -> None:
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if prepare is not None:
        prepare()
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, cwd)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
