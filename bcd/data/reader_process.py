"""Starts reading processes; imports nothing large, so that one can start before all else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

_PATH = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_SERVE = "from bcd.data.reader import serve; serve()"

_PIPE = 1 << 20  # bytes

# What a process that decodes untrusted images gets of the environment: nothing secret, such as the
# password in BCD_RECORDS.
_NAMES = {
    "PATH", "HOME", "USERPROFILE", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT",
    "SYSTEMDRIVE", "WINDIR", "PATHEXT", "VIRTUAL_ENV", "BCD_CACHE", "ORT_DISABLE_TELEMETRY",
    "NO_ALBUMENTATIONS_UPDATE", "DO_NOT_TRACK",
}  # fmt: skip
_PREFIXES = ("LC_", "PYTHON", "LD_", "DYLD_", "MALLOC_", "OMP_", "OPENBLAS_", "MKL_", "OPENCV_")

_EARLY: list[subprocess.Popen[bytes]] = []  # at most one


def start_early() -> None:
    """Starts a reading process before it is known what it reads.

    It imports what it needs meanwhile, and `start_reader` returns it. It ends with this process.
    """
    if not _EARLY:
        _EARLY.append(_start())


def start_reader() -> subprocess.Popen[bytes]:
    """Returns a process that runs `bcd.data.reader.serve`; the one started early if there is."""
    with contextlib.suppress(IndexError):
        return _EARLY.pop()
    return _start()


def reader_environment() -> dict[str, str]:
    """The variables of this process's environment that a reading process needs."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _NAMES or name.upper().startswith(_PREFIXES)
    }


def _start() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PATH + _SERVE, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libraries print warnings about files
        env=reader_environment() | {"OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # only the parent handles an interruption, and ends the reader
    )
    assert process.stdout is not None
    _enlarge(process.stdout.fileno())
    return process


def _enlarge(pipe: int) -> None:
    """Lets an image be written at once; where pipes cannot be enlarged, it is in parts."""
    with contextlib.suppress(ImportError, AttributeError, OSError):  # only on Linux, up to a limit
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
