"""Runs programs under strace, and reads from its log what they sent and where they wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_STRACE = ("strace", "-f", "--seccomp-bpf", "-y", "-e", "signal=none")

_NETWORK = ("socket", "connect", "bind", "sendto", "sendmsg", "sendmmsg")
_OPEN = ("open", "openat", "openat2")
# What changes a folder or a file by its name.
_CHANGE = (
    "creat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2",
    "link", "linkat", "symlink", "symlinkat", "mknod", "mknodat", "truncate", "chmod", "fchmodat",
    "chown", "lchown", "fchownat", "utimensat", "setxattr",
)  # fmt: skip
_LOOPBACK = re.compile(r'"(127\.[\d.]+|::1|::ffff:127\.[\d.]+)"')
_FOR_WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
_LINE = re.compile(r"(\d+) +(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (.*)")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')


def why_not() -> str:
    """Why nothing can be traced here; empty where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run([*_STRACE, "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace: {done.stderr.strip()[-100:]}"


def traced(
    words: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path
) -> subprocess.CompletedProcess[str]:
    """Runs a program and all that it starts under strace.

    Args:
        words: Its command line.
        cwd: Where it starts.
        environment: All of it.
        log: Where the calls are written.
    """
    calls = ",".join((*_NETWORK, *_OPEN, *_CHANGE))
    command = [*_STRACE, "-e", f"trace=?{calls.replace(',', ',?')}", "-o", str(log), *words]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def calls_of(log: Path) -> list[tuple[str, str, str]]:
    """Name, arguments and result of each call; those that others interrupted are put together."""
    begun: dict[str, str] = {}
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        if not (match := _LINE.match(line)):
            continue
        process, rest = match.groups()
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if rest.startswith("<... "):
            rest = begun.pop(process, "") + rest.partition("resumed>")[2]
        if match := _CALL.match(rest):
            calls.append((match[1], match[2], match[3]))
    return calls


def sent(log: Path) -> list[str]:
    """Every socket but those between processes of this machine, and every attempt to use one."""
    return [
        f"{name}({arguments})"
        for name, arguments, _ in calls_of(log)
        if ("AF_UNIX" not in arguments if name == "socket" else "AF_INET" in arguments)
        and name in _NETWORK
    ]


def beyond_loopback(log: Path) -> list[str]:
    """Every use of a network address that other machines can reach, or that is on one."""
    return [
        f"{name}({arguments})"
        for name, arguments, _ in calls_of(log)
        if name in _NETWORK and "sa_family=AF_INET" in arguments and not _LOOPBACK.search(arguments)
    ]


def written(log: Path, cwd: Path) -> set[Path]:
    """Every path that was opened for writing, made, moved, changed or removed, successfully."""
    found: set[Path] = set()
    for name, arguments, result in calls_of(log):
        if result.startswith("-1"):
            continue
        if name in _CHANGE or (name in _OPEN and _FOR_WRITING.search(arguments)):
            pairs = _PATH.findall(arguments)
            pairs = pairs[-1:] if name.startswith("symlink") else pairs
            found.update(Path(base or cwd) / text for base, text in pairs)
    return found
