"""Servers on one database, each a process that can be killed, for tests.

Run as `python -m tests.serving.jobs.cluster FOLDER SECONDS [override …]`. For a line `start NAME`
on its input it forks a server with the stub model, for `kill NAME` it kills it and says `killed`.
Importing everything once makes starts cheap. What a server prints is in `FOLDER/NAME.out`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx

from tests.helpers.harness import ROOT
from tests.serving.making import serve_config

T = TypeVar("T")

_SECONDS = 120.0  # for anything that a loaded machine may be slow with


class Cluster:
    """Servers that can be started and killed.

    Args:
        process: Runs `main`.
        folder: Of what they print.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder
        self.clients: dict[str, httpx.Client] = {}

    def start(self, *names: str) -> None:
        """Starts servers, and waits until they serve."""
        for name in names:
            (self._folder / f"{name}.out").unlink(missing_ok=True)
            self._say(f"start {name}")
        for name in names:
            token, address = wait_for(lambda name=name: self._printed(name))  # type: ignore[misc]
            headers = {"Authorization": f"Bearer {token}"}
            self.clients[name] = httpx.Client(base_url=address, headers=headers, timeout=_SECONDS)

    def kill(self, *names: str) -> None:
        """Kills servers; returns when they are dead."""
        for name in names:
            self._say(f"kill {name}")
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "killed\n"
            self.clients.pop(name).close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _printed(self, name: str) -> tuple[str, str] | None:
        with contextlib.suppress(FileNotFoundError):
            lines = (self._folder / f"{name}.out").read_text().splitlines()
            if len(lines) > 1 and lines[1].startswith("bcd serves "):
                return lines[0], lines[1].split()[2]
        assert self._process.poll() is None, (self._folder / f"{name}.err").read_text()
        return None


def wait_for(ask: Callable[[], T | None]) -> T:
    """Asks until there is something."""
    last = time.monotonic() + _SECONDS
    while (found := ask()) is None:
        assert time.monotonic() < last, "it takes too long"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def cluster(folder: Path, seconds: float, *overrides: str) -> Iterator[Cluster]:
    """Servers, which are killed at the end.

    Args:
        folder: Of what they print, and of the records if these are SQLite.
        seconds: That each answer takes.
        overrides: Of the configuration.
    """
    command = [sys.executable, "-m", "tests.serving.jobs.cluster", str(folder), str(seconds)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *overrides], cwd=ROOT, env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        made = Cluster(process, folder)
        try:
            yield made
        finally:
            for client in made.clients.values():
                client.close()
            assert process.stdin is not None
            process.stdin.close()  # which kills all


def main(folder: str, seconds: str, *overrides: str) -> None:
    """Starts and kills servers until its input ends."""
    import uvicorn  # noqa: F401  (so that servers need not import it)

    from tests.serving.process import serve_stub

    cfg = serve_config(Path(folder), "log.format=json", *overrides)
    running: dict[str, int] = {}
    for line in sys.stdin:
        command, name = line.split()
        if command == "start":
            running[name] = os.fork()
            if running[name] == 0:
                for number, end in ((1, "out"), (2, "err")):
                    file = Path(folder) / f"{name}.{end}"
                    os.dup2(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
                os.close(0)
                try:
                    serve_stub(cfg, float(seconds))
                except BaseException as error:
                    os.write(2, repr(error).encode())
                os._exit(1)
        else:
            _kill(running.pop(name))
            os.write(1, b"killed\n")
    for process in running.values():
        _kill(process)


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
