"""The server as a process of its own, with the stub model.

`python -m tests.serving.process <folder> <seconds of each answer> [override …]` serves; it adds a
user with every role and prints their token before the address.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from argon2 import PasswordHasher
from numpy.typing import NDArray

from bcd.config.serve import ServeConfig
from bcd.evaluation.decision import Decisions
from bcd.serving.accounts.store import Accounts
from bcd.serving.accounts.user import ROLES
from bcd.serving.engine.queue import Engine
from bcd.serving.errors import ConflictError
from tests.helpers.harness import ROOT
from tests.serving.making import IDENTITY, StubModel, serve_config
from tests.serving.running import ALL, PASSWORD


class SlowModel(StubModel):
    """Takes its time.

    Args:
        seconds: Of each call.
    """

    threads, batch = 1, 1

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        time.sleep(self._seconds)
        return super().answer(packed)


class Server:
    """A running server.

    Attributes:
        process: It serves.
        token: Of a user with every role.
        port: On loopback.
        log: File of what it logs.
    """

    def __init__(self, process: subprocess.Popen[str], token: str, port: int, log: Path) -> None:
        self.process, self.token, self.port, self.log = process, token, port, log

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving(folder: Path, seconds: float, *overrides: str) -> Iterator[Server]:
    """Starts a server, and kills it if it still runs at the end."""
    command = [sys.executable, "-m", "tests.serving.process", str(folder), str(seconds), *overrides]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = folder.with_name(f"{folder.name}.log")  # a pipe that nobody reads would become full
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            assert process.stdout is not None
            token = process.stdout.readline().strip()
            port = process.stdout.readline().split()[2].rpartition(":")[2]
            yield Server(process, token, int(port), log)
        finally:
            process.kill()


def _main(folder: str, seconds: str, *overrides: str) -> int:
    return serve_stub(serve_config(Path(folder), "log.format=json", *overrides), float(seconds))


def serve_stub(cfg: ServeConfig, seconds: float) -> int:
    """Serves the stub model, which takes so many seconds for each answer."""
    from bcd.serving import start

    Accounts.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

    def accounts_of(*given: Any) -> Accounts:
        made = Accounts(*given)
        with contextlib.suppress(ConflictError):  # of an earlier server
            made.users.add("", ALL, PASSWORD, ROLES)
        print(made.tokens.add("", ALL, ROLES, 1), flush=True)  # noqa: T201
        return made

    def engine_of(cfg: ServeConfig) -> Engine:
        return Engine(SlowModel(seconds), IDENTITY, cfg.limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "load_engine", engine_of)
        patch.setattr(start, "Accounts", accounts_of)
        return start.serve(cfg)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
