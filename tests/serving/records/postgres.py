"""A PostgreSQL server for tests: Debian's, on a Unix socket in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/bin")
_USER = "bcd"


def programs() -> Path:
    """The folder of PostgreSQL's programs; skips the test where they are not installed."""
    found = [each for place in _PLACES for each in Path("/").glob(f"{place[1:]}/initdb")]
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return max(found, key=lambda file: file.stat().st_mtime).parent


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Runs a server; yields the URL of its database `postgres`. It waits for the disk as usual."""
    binaries = programs()
    # A short path: the path of a socket has at most about 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="bcd-pg"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"

    def run(*command: str) -> None:
        # A file, because the server keeps it open after pg_ctl has ended.
        with (Path(tempfile.gettempdir()) / f"{folder.name}.out").open("w+b") as output:
            try:
                subprocess.run(
                    [*as_user, *command], check=True, stdout=output, stderr=subprocess.STDOUT,
                    cwd="/", timeout=60,
                )  # fmt: skip
            except subprocess.CalledProcessError as error:
                output.seek(0)
                raise AssertionError(output.read().decode("utf-8", "replace")) from error

    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c shared_buffers=16MB"
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust"]
    control = [str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    try:
        run(*initdb, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
        run(*control, "-o", settings, "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql+psycopg://{_USER}@/postgres?host={folder}"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        (Path(tempfile.gettempdir()) / f"{folder.name}.out").unlink(missing_ok=True)
